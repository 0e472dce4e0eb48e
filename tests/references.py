"""Recurrent networks as float64 NumPy loops, forward and backward: the equations with nothing between.

Neither jax nor jaxlstm is imported. Everything here is about one sequence and one step, on vectors; the loops over time
and over the batch are Python's. Params and carries are any named tuples with the fields used below.

    step(params, carry, x) -> carry, kept                      one step, and what its derivative needs
    step_backward(params, kept, dcarry) -> dparams, dx, dcarry   its cotangents, derived by hand
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Reference(NamedTuple):
    step: Callable
    step_backward: Callable


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(params, carry, x):
    """One step of Hochreiter & Schmidhuber's LSTM with a forget gate, gates packed i, f, g, o.

    i, f, o = sigma(z)    g = tanh(z)    z = W_ih x + W_hh h + b
    c' = f * c + i * g                   h' = o * tanh(c')
    """
    h, c = carry
    z_i, z_f, z_g, z_o = np.split(params.w_ih.T @ x + params.w_hh.T @ h + params.b, 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c_next = f * c + i * g
    h_next = o * np.tanh(c_next)
    return carry._replace(h=h_next, c=c_next), (carry, x, i, f, g, o, c_next)


def lstm_step_backward(params, kept, dcarry):
    """dc' gains dh' * o * tanh'(c'); then each gate by the product rule, and z by the gate's own derivative.

    sigma' = sigma (1 - sigma)    tanh' = 1 - tanh^2
    """
    carry, x, i, f, g, o, c_next = kept
    dh, dc = dcarry
    dc = dc + dh * o * (1 - np.tanh(c_next) ** 2)
    dz_i = dc * g * i * (1 - i)
    dz_f = dc * carry.c * f * (1 - f)
    dz_g = dc * i * (1 - g**2)
    dz_o = dh * np.tanh(c_next) * o * (1 - o)
    dz = np.concatenate([dz_i, dz_f, dz_g, dz_o])
    dparams = params._replace(w_ih=np.outer(x, dz), w_hh=np.outer(carry.h, dz), b=dz)
    return dparams, params.w_ih @ dz, carry._replace(h=params.w_hh @ dz, c=dc * f)


def gru_after_step(params, carry, x):
    """One step of the GRU with the reset gate after the matmul, gates packed r, z, n.

    r, z = sigma(W_ih x + W_hh h + b)    n = tanh(W_in x + b_n + r * m)    m = W_hn h + b_hn
    h' = (1 - z) * n + z * h
    """
    (h,) = carry
    x_r, x_z, x_n = np.split(params.w_ih.T @ x + params.b, 3)
    h_r, h_z, h_n = np.split(params.w_hh.T @ h, 3)
    r, z, m = sigmoid(x_r + h_r), sigmoid(x_z + h_z), h_n + params.b_hn
    n = np.tanh(x_n + r * m)
    return carry._replace(h=(1 - z) * n + z * h), (h, x, r, z, n, m)


def gru_after_step_backward(params, kept, dcarry):
    """n's pre-activation a_n = x_n + r * m: da_n = dh' * (1 - z) * tanh', dr = da_n * m, dm = da_n * r."""
    h, x, r, z, n, m = kept
    (dh,) = dcarry
    da_n = dh * (1 - z) * (1 - n**2)
    da_r = da_n * m * r * (1 - r)
    da_z = dh * (h - n) * z * (1 - z)
    dm = da_n * r
    dzx, dzh = np.concatenate([da_r, da_z, da_n]), np.concatenate([da_r, da_z, dm])
    dparams = params._replace(w_ih=np.outer(x, dzx), w_hh=np.outer(h, dzh), b=dzx, b_hn=dm)
    return dparams, params.w_ih @ dzx, dcarry._replace(h=dh * z + params.w_hh @ dzh)


def gru_before_step(params, carry, x):
    """One step of the GRU of Cho et al. 2014, the reset gate before the matmul, gates packed r, z, n.

    r, z = sigma(W_ih x + W_hh h + b)    n = tanh(W_in x + b_n + W_hn (r * h))
    h' = (1 - z) * n + z * h
    """
    (h,) = carry
    w_hr, w_hz, w_hn = np.split(params.w_hh, 3, axis=1)
    x_r, x_z, x_n = np.split(params.w_ih.T @ x + params.b, 3)
    r, z = sigmoid(x_r + w_hr.T @ h), sigmoid(x_z + w_hz.T @ h)
    n = np.tanh(x_n + w_hn.T @ (r * h))
    return carry._replace(h=(1 - z) * n + z * h), (h, x, r, z, n)


def gru_before_step_backward(params, kept, dcarry):
    """With q = r * h: dq = W_hn^T da_n, dr = dq * h, and h gains dq * r beside its shares through r and z."""
    h, x, r, z, n = kept
    (dh,) = dcarry
    w_hr, w_hz, w_hn = np.split(params.w_hh, 3, axis=1)
    da_n = dh * (1 - z) * (1 - n**2)
    dq = w_hn @ da_n
    da_r = dq * h * r * (1 - r)
    da_z = dh * (h - n) * z * (1 - z)
    dzx = np.concatenate([da_r, da_z, da_n])
    dw_hh = np.concatenate([np.outer(h, da_r), np.outer(h, da_z), np.outer(r * h, da_n)], axis=1)
    dh = dh * z + dq * r + w_hr @ da_r + w_hz @ da_z
    return params._replace(w_ih=np.outer(x, dzx), w_hh=dw_hh, b=dzx), params.w_ih @ dzx, dcarry._replace(h=dh)


def rnn_step(params, carry, x, activation=np.tanh):
    """One step of the simple RNN: h' = activation(W_ih x + W_hh h + b)."""
    h_next = activation(params.w_ih.T @ x + params.w_hh.T @ carry.h + params.b)
    return carry._replace(h=h_next), (carry.h, x, h_next)


def rnn_step_backward(params, kept, dcarry, slope=lambda h_next: 1 - h_next**2):
    """dz = dh' * activation'(z), the slope told from h' itself."""
    h, x, h_next = kept
    dz = dcarry.h * slope(h_next)
    dparams = params._replace(w_ih=np.outer(x, dz), w_hh=np.outer(h, dz), b=dz)
    return dparams, params.w_ih @ dz, dcarry._replace(h=params.w_hh @ dz)


def relu_rnn_step(params, carry, x):
    """The simple RNN with activation max(z, 0)."""
    return rnn_step(params, carry, x, lambda z: np.maximum(z, 0))


def relu_rnn_step_backward(params, kept, dcarry):
    """The slope of max(z, 0) is 1 where it is above 0, else 0."""
    return rnn_step_backward(params, kept, dcarry, lambda h_next: np.where(h_next > 0, 1.0, 0.0))


LSTM = Reference(lstm_step, lstm_step_backward)
GRU_AFTER = Reference(gru_after_step, gru_after_step_backward)
GRU_BEFORE = Reference(gru_before_step, gru_before_step_backward)
RNN_TANH = Reference(rnn_step, rnn_step_backward)
RNN_RELU = Reference(relu_rnn_step, relu_rnn_step_backward)


def forward(reference, params, xs, carry, *, lengths=None, mask=None, reset=None, reverse=False):
    """Run `reference` over ``xs [T, *batch, I]`` from carry ``[*batch, H]``: ``(final carry, ys [T, *batch, H])``.

    Padded and masked steps hold the carry and give zero ys. Where reset[t], the carry that would cross the edge between
    t-1 and t, in either direction, becomes zero; with reverse and reset[0] that is the final carry.
    """
    valid, edges = steps_that_count(xs, lengths, mask), edges_cut(xs, reset, reverse)
    ys = np.zeros((*xs.shape[:-1], carry.h.shape[-1]))
    final = zeros_like(carry)
    for n in np.ndindex(xs.shape[1:-1]):
        kept, last = sequence_forward(reference, params, xs[:, *n], take(carry, n), valid[:, *n], edges[:, *n], reverse)
        for t, (after, _) in kept.items():
            ys[t, *n] = after.h
        put(final, n, last)
    return final, ys


def backward(reference, params, xs, carry, dcarry, dys, *, lengths=None, mask=None, reset=None, reverse=False):
    """Backpropagation through time: cotangents of params, xs and carry, given those of the final carry and ys."""
    valid, edges = steps_that_count(xs, lengths, mask), edges_cut(xs, reset, reverse)
    dparams, dxs, dinitial = zeros_like(params), np.zeros_like(xs), zeros_like(carry)
    for n in np.ndindex(xs.shape[1:-1]):
        cut, d = edges[:, *n], take(dcarry, n)
        kept, _ = sequence_forward(reference, params, xs[:, *n], take(carry, n), valid[:, *n], cut, reverse)
        if cut[-1]:
            d = zeros_like(d)
        for t in reversed(times(len(xs), reverse)):
            if t in kept:
                d = d._replace(h=d.h + dys[t, *n])
                dparams_t, dxs[t, *n], d = reference.step_backward(params, kept[t][1], d)
                dparams = add(dparams, dparams_t)
            if cut[t]:
                d = zeros_like(d)
        put(dinitial, n, d)
    return dparams, dxs, dinitial


def sequence_forward(reference, params, xs, carry, valid, cut, reverse):
    """One sequence ``[T, I]``: ``{t: (carry after step t, what its derivative needs)}`` and the final carry."""
    kept = {}
    for t in times(len(xs), reverse):
        if cut[t]:
            carry = zeros_like(carry)
        if valid[t]:
            carry, needed = reference.step(params, carry, xs[t])
            kept[t] = carry, needed
    return kept, zeros_like(carry) if cut[-1] else carry


def times(steps, reverse):
    return range(steps - 1, -1, -1) if reverse else range(steps)


def steps_that_count(xs, lengths, mask):
    """valid [T, *batch]: the first `lengths` steps of each sequence, where the mask allows them."""
    valid = np.ones(xs.shape[:-1], bool) if mask is None else mask.copy()
    if lengths is not None:
        for n in np.ndindex(lengths.shape):
            valid[lengths[n] :, *n] = False
    return valid


def edges_cut(xs, reset, reverse):
    """cut [T + 1, *batch]: whether the carry is dropped on the way into step t; cut[T], on the way out of the last."""
    steps = len(xs)
    cut = np.zeros((steps + 1, *xs.shape[1:-1]), bool)
    if reset is None:
        return cut
    for t in range(steps):
        arrives = t if not reverse else t - 1 if t > 0 else steps
        cut[arrives] = reset[t]
    return cut


def zeros_like(tree):
    return type(tree)(*(None if a is None else np.zeros_like(a) for a in tree))


def add(left, right):
    return type(left)(*(None if a is None else a + b for a, b in zip(left, right, strict=True)))


def take(carry, n):
    return type(carry)(*(a[n] for a in carry))


def put(carry, n, values):
    for a, value in zip(carry, values, strict=True):
        a[n] = value


def random_options(names, steps, batch, seed=0):
    """Arguments drawn for the options named: lengths from 0 to steps, mask, reset; "reverse" is True."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, steps, batch, endpoint=True)
    if lengths.size > 1:
        lengths.flat[0], lengths.flat[-1] = 0, steps
    drawn = {
        "lengths": lengths,
        "mask": rng.random((steps, *batch)) < 0.7,
        "reset": rng.random((steps, *batch)) < 0.3,
        "reverse": True,
    }
    return {name: drawn[name] for name in names.split()}


def numerical_backward(reference, params, xs, carry, dcarry, dys, **options):
    """What `backward` returns, by central differences of <ys, dys> + <final carry, dcarry> in every number there is."""

    def loss(params, xs, carry):
        final, ys = forward(reference, params, xs, carry, **options)
        return (ys * dys).sum() + sum((a * d).sum() for a, d in zip(final, dcarry, strict=True))

    dparams, dcarry_0 = (
        type(tree)(*(None if a is None else finite_differences(lambda: loss(params, xs, carry), a) for a in tree))
        for tree in (params, carry)
    )
    return dparams, finite_differences(lambda: loss(params, xs, carry), xs), dcarry_0


def finite_differences(f, x, step=1e-5):
    """The derivative of f() in each number of x, which f reads: right to about step**2."""
    gradient = np.zeros_like(x)
    for n in np.ndindex(x.shape):
        here = x[n]
        x[n] = here + step
        beyond = f()
        x[n] = here - step
        gradient[n] = (beyond - f()) / (2 * step)
        x[n] = here
    return gradient


def assert_close(got, want, tolerance=1e-12):
    """Tuples of the same type, arrays of the same shape: equal to `tolerance`, absolute plus relative."""
    if want is None or isinstance(want, tuple):
        assert type(got) is type(want)
        for a, b in zip(got or (), want or (), strict=True):
            assert_close(a, b, tolerance)
    else:
        assert got.shape == want.shape
        np.testing.assert_allclose(np.asarray(got), want, rtol=tolerance, atol=tolerance)
