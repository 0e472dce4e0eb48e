"""MGU, minGRU, minLSTM, IndRNN, sLSTM, mLSTM, LRU and ConvLSTM as float64 NumPy loops over vectors, from the papers.

Neither jax nor jaxlstm is imported. Params and carries are any named tuples with the fields used below.

    step(params, carry, x) -> carry

Gradients are complex steps: f is run at x + 1e-100i, and Im f / 1e-100 is its derivative, exact to rounding. So a step
compares real parts only, and takes no conjugates.
"""

from functools import partial

import numpy as np
from references import edges_cut, put, steps_that_count, take, times

STEP = 1e-100


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def where_larger(a, b):
    """max(a, b) of complex numbers that differ from real ones by a tiny imaginary part."""
    return np.where(a.real >= b.real, a, b)


def g(z):
    """Feng et al. 2024, appendix B: z + 0.5 where z >= 0, else sigma(z)."""
    return np.where(z.real >= 0, z + 0.5, sigmoid(z))


def mgu_step(params, carry, x, reset_gate=True):
    """Zhou et al. 2016, equations 6 to 8, where f acts behind the matmul: h' = (1 - f) * n + f * h.

    n = tanh(W_in x + b_n + f * (W_hn h + b_hn)), or without the gate tanh(W_in x + b_n + W_hn h).
    """
    x_f, x_n = np.split(params.w_ih.T @ x + params.b, 2)
    h_f, h_n = np.split(params.w_hh.T @ carry.h, 2)
    f = sigmoid(x_f + h_f)
    n = np.tanh(x_n + (f * (h_n + params.b_hn) if reset_gate else h_n))
    return carry._replace(h=(1 - f) * n + f * carry.h)


def min_gru_step(params, carry, x, activation=lambda z: z):
    """Feng et al. 2024, section 3.1: h' = (1 - z) * h + z * h~."""
    linear_z, linear_h = np.split(params.w_ih.T @ x + params.b, 2)
    z = sigmoid(linear_z)
    return carry._replace(h=(1 - z) * carry.h + z * activation(linear_h))


def min_lstm_step(params, carry, x, activation=lambda z: z):
    """Feng et al. 2024, section 3.2: h' = f / (f + i) * h + i / (f + i) * h~."""
    linear_i, linear_f, linear_h = np.split(params.w_ih.T @ x + params.b, 3)
    i, f = sigmoid(linear_i), sigmoid(linear_f)
    return carry._replace(h=f / (f + i) * carry.h + i / (f + i) * activation(linear_h))


def ind_rnn_step(params, carry, x, activation=lambda z: np.where(z.real > 0, z, 0)):
    """Li et al. 2018, equation 2: h' = act(W x + u * h + b)."""
    return carry._replace(h=activation(params.w_ih.T @ x + params.u * carry.h + params.b))


def slstm_preactivations(params, carry, x):
    """W x + R h + b for i, f, g, o, where R has one block for each head."""
    heads, size, _ = params.w_hh.shape
    z = np.split(params.w_ih.T @ x + params.b, 4)
    for gate in range(4):
        for n in range(heads):
            units = slice(n * size, (n + 1) * size)
            block = params.w_hh[n][:, gate * size : (gate + 1) * size]
            z[gate] = z[gate].astype(np.result_type(z[gate], block, carry.h))
            z[gate][units] += block.T @ carry.h[units]
    return z


def log_forget(z, exponential):
    """log f, where f = exp(z) or sigma(z)."""
    return z if exponential else -np.log1p(np.exp(-z))


def slstm_step(params, carry, x, exponential=False):
    """Beck et al. 2024, equations 8 to 17, with the stabiliser."""
    z_i, z_f, z_g, z_o = slstm_preactivations(params, carry, x)
    log_f = log_forget(z_f, exponential)
    m = where_larger(log_f + carry.m, z_i)
    i, f = np.exp(z_i - m), np.exp(log_f + carry.m - m)
    c = f * carry.c + i * np.tanh(z_g)
    n = f * carry.n + i
    return carry._replace(h=sigmoid(z_o) * c / n, c=c, n=n, m=m)


def plain_slstm_step(params, carry, x, exponential=False):
    """The same without the stabiliser (equations 8 to 14), which float64 can hold for a few steps; m stays 0."""
    z_i, z_f, z_g, z_o = slstm_preactivations(params, carry, x)
    i, f = np.exp(z_i), np.exp(log_forget(z_f, exponential))
    c = f * carry.c + i * np.tanh(z_g)
    n = f * carry.n + i
    return carry._replace(h=sigmoid(z_o) * c / n, c=c, n=n)


def mlstm_step(params, carry, x, exponential=False, stabilised=True):
    """Beck et al. 2024, equations 19 to 27, head by head; with exp(m) C and exp(m) n in place of C and n, or m = 0."""
    heads, size = carry.n.shape
    z = params.w_ih.T @ x
    b = params.b
    parts = np.cumsum([heads * size] * 4 + [heads])
    q, k, v, z_o, z_i, z_f = np.split(z, parts)
    b_q, b_k, b_v, b_o, b_i, b_f = np.split(b, parts)
    q, k, v = q + b_q, k / np.sqrt(size) + b_k, v + b_v
    h, c, n, m = [], [], [], []
    for head in range(heads):
        units = slice(head * size, (head + 1) * size)
        log_i, log_f = z_i[head] + b_i[head], log_forget(z_f[head] + b_f[head], exponential)
        m.append(where_larger(log_f + carry.m[head], log_i) if stabilised else carry.m[head])
        i, f = np.exp(log_i - m[-1]), np.exp(log_f + carry.m[head] - m[-1])
        c.append(f * carry.c[head] + i * np.array([[a * b for b in k[units]] for a in v[units]]))
        n.append(f * carry.n[head] + i * k[units])
        product = sum(n[-1] * q[units])
        product = product if product.real >= 0 else -product
        h.append(c[-1] @ q[units] / where_larger(product, np.exp(-m[-1])))
    o = sigmoid(z_o + b_o)
    return carry._replace(h=o * np.concatenate(h), c=np.array(c), n=np.array(n), m=np.array(m))


def lru_step(params, carry, x):
    """Orvieto et al. 2023, section 3, with the state's real and imaginary parts apart: h is the output y."""
    states = len(params.nu_log)
    b_re, b_im, d = np.split(params.w_ih, [states, 2 * states], axis=1)
    radius, angle, gamma = np.exp(-np.exp(params.nu_log)), np.exp(params.theta_log), np.exp(params.gamma_log)
    re, im = radius * np.cos(angle), radius * np.sin(angle)
    s_re = re * carry.s_re - im * carry.s_im + gamma * (b_re.T @ x)
    s_im = re * carry.s_im + im * carry.s_re + gamma * (b_im.T @ x)
    return carry._replace(h=params.c_re.T @ s_re - params.c_im.T @ s_im + d.T @ x, s_re=s_re, s_im=s_im)


def convolve(x, w):
    """The sum of x[position + offset] @ w[offset + (size - 1) // 2], zeros outside of x."""
    sizes = w.shape[:-2]
    z = np.zeros((*x.shape[:-1], w.shape[-1]), np.result_type(x, w))
    for position in np.ndindex(x.shape[:-1]):
        for place in np.ndindex(sizes):
            source = tuple(p + q - (size - 1) // 2 for p, q, size in zip(position, place, sizes, strict=True))
            if all(0 <= s < n for s, n in zip(source, x.shape[:-1], strict=True)):
                z[position] += w[place].T @ x[source]
    return z


def conv_lstm_step(params, carry, x, spatial):
    """Shi et al. 2015, equation 3; x, h and c are all positions in a row."""
    x, h, c = (a.reshape(*spatial, -1) for a in (x, carry.h, carry.c))
    z_i, z_f, z_g, z_o = np.split(convolve(x, params.w_ih) + convolve(h, params.w_hh) + params.b, 4, axis=-1)
    p_i, p_f, p_o = np.split(params.p, 3, axis=-1)
    i, f = sigmoid(z_i + p_i * c), sigmoid(z_f + p_f * c)
    c = f * c + i * np.tanh(z_g)
    h = sigmoid(z_o + p_o * c) * np.tanh(c)
    return carry._replace(h=h.ravel(), c=c.ravel())


def forward(step, params, xs, carry, initial, *, lengths=None, mask=None, reset=None, reverse=False):
    """Run over ``xs [T, *batch, I]``: ``(final carry, ys)``. A reset returns to ``initial``, one sequence's carry."""
    valid, cut = steps_that_count(xs, lengths, mask), edges_cut(xs, reset, reverse)
    dtype = np.result_type(xs, *params, *carry)
    final = type(carry)(*(a.astype(dtype) for a in carry))
    ys = np.zeros((*xs.shape[:-1], carry.h.shape[-1]), dtype)
    for n in np.ndindex(xs.shape[1:-1]):
        now = take(carry, n)
        for t in times(len(xs), reverse):
            if cut[t, *n]:
                now = initial
            if valid[t, *n]:
                now = step(params, now, xs[t, *n])
                ys[t, *n] = now.h
        put(final, n, initial if cut[-1, *n] else now)
    return final, ys


def backward(step, params, xs, carry, initial, dcarry, dys, **options):
    """The gradients of <ys, dys> + <final carry, dcarry> in params, xs and carry, a complex step for each number."""

    def loss(*arguments):
        final, ys = forward(step, *arguments, initial, **options)
        return (ys * dys).sum() + sum((a * d).sum() for a, d in zip(final, dcarry, strict=True))

    arguments = [params, xs, carry]

    def gradient(place, field=None):
        array = arguments[place] if field is None else getattr(arguments[place], field)
        if array is None:
            return None
        result = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[index] += STEP * 1j
            moved = moved if field is None else arguments[place]._replace(**{field: moved})
            result[index] = loss(*arguments[:place], moved, *arguments[place + 1 :]).imag / STEP
        return result

    def of_tuple(place):
        return arguments[place]._replace(**{name: gradient(place, name) for name in arguments[place]._fields})

    return of_tuple(0), gradient(1), of_tuple(2)


def exponential(step):
    """The step with an exponential forget gate."""
    return partial(step, exponential=True)
