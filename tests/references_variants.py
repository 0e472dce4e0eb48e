"""The LSTM's variants, zoneout and recurrent dropout as float64 NumPy loops: the equations of the papers, a vector at
a time. Neither jax nor jaxlstm is imported. Params and carries are any named tuples with the fields used below.

    step(params, carry, x) -> carry
"""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def layer_norm(z, scale, shift):
    """Ba et al. 2016, equation 4, with 1e-5 under the root."""
    mean = sum(z) / len(z)
    variance = sum((z - mean) ** 2) / len(z)
    return np.array([a * (v - mean) / np.sqrt(variance + 1e-5) + b for v, a, b in zip(z, scale, shift, strict=True)])


def lstm_variant_step(params, carry, x, *, coupled=False, clip=None):
    """One step of the LSTM with any of its options, gate by gate.

    peepholes (Gers & Schmidhuber 2000): i and f see the old c, o the new one
    coupled (Greff et al. 2015): f = 1 - i
    projection (Sak et al. 2014): h = W_hr^T m
    layer norm (Ba et al. 2016, equations 20-22): of W_h h, of W_x x, of c before its tanh
    clip (ONNX): of the pre-activation of each gate, peephole included
    """
    h, c = carry
    names = "igo" if coupled else "ifgo"
    from_h, from_x = params.w_hh.T @ h, params.w_ih.T @ x
    if params.norm is not None:
        from_h = layer_norm(from_h, params.norm.scale_h, params.norm.shift_h)
        from_x = layer_norm(from_x, params.norm.scale_x, params.norm.shift_x)
    z = dict(zip(names, np.split(from_h + from_x + params.b, len(names)), strict=True))
    seeing = names.replace("g", "")
    p = np.zeros(len(seeing) * len(c)) if params.p is None else params.p
    p = dict(zip(seeing, np.split(p, len(seeing)), strict=True))
    limit = np.inf if clip is None else clip

    def gate(name, c):
        return sigmoid(np.minimum(np.maximum(z[name] + p[name] * c, -limit), limit))

    i = gate("i", c)
    f = 1 - i if coupled else gate("f", c)
    c_next = f * c + i * np.tanh(np.minimum(np.maximum(z["g"], -limit), limit))
    o = gate("o", c_next)
    c_out = c_next if params.norm is None else layer_norm(c_next, params.norm.scale_c, params.norm.shift_c)
    m = o * np.tanh(c_out)
    return carry._replace(h=m if params.w_hr is None else params.w_hr.T @ m, c=c_next)


def gru_dropped_step(params, carry, x, seen):
    """The GRU (reset gate after the matmul) of which W_hh sees seen * h (Gal & Ghahramani 2016); order r, z, n."""
    (h,) = carry
    x_r, x_z, x_n = np.split(params.w_ih.T @ x + params.b, 3)
    h_r, h_z, h_n = np.split(params.w_hh.T @ (seen * h), 3)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * (h_n + params.b_hn))
    return carry._replace(h=(1 - z) * n + z * h)


def zoneout(old, new, kept):
    """d * old + (1 - d) * new, a field at a time (Krueger et al. 2016); d is 0 or 1, or the probability of 1."""
    d = {name: kept.get(name, 0.0) for name in old._fields}
    return old._replace(**{name: d[name] * getattr(old, name) + (1 - d[name]) * getattr(new, name) for name in d})


def run(step, xs, carry):
    """``step(t, n, carry, x) -> carry`` over ``xs [T, *batch, I]``: ``(final carry, ys)``, n the sequence's place."""
    final = type(carry)(*(np.array(a) for a in carry))
    ys = np.zeros((*xs.shape[:-1], carry.h.shape[-1]))
    for n in np.ndindex(xs.shape[1:-1]):
        now = type(carry)(*(a[n] for a in carry))
        for t in range(len(xs)):
            now = step(t, n, now, xs[(t, *n)])
            ys[(t, *n)] = now.h
        for a, value in zip(final, now, strict=True):
            a[n] = value
    return final, ys
