"""The operators in float64 numpy, step by step: the reference where no reference file has the case."""
import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def scan(case, softplus):
    """{out, last_state, and a gradient d<name> of every input} for the inputs and dout of `case`, in float64."""
    x = {name: value.astype(np.float64) for name, value in case.items()}
    u, A, B, C, dout = x["u"], x["A"], x["B"], x["C"], x["dout"]
    batch, dim, length = u.shape
    D = x.get("D", np.zeros(dim))[:, None]
    raw = x["delta"] + x.get("delta_bias", np.zeros(dim))[:, None]
    dt, slope = (np.logaddexp(0, raw), sigmoid(raw)) if softplus else (raw, np.ones_like(raw))
    gate = x["z"] * sigmoid(x["z"]) if "z" in x else np.ones_like(u)

    decay = np.exp(dt[..., None] * A[None, :, None])                           # (b, d, l, n)
    h, states, y = np.zeros((batch, dim, A.shape[1])), [], np.zeros_like(u)
    for l in range(length):
        states.append(h)
        h = decay[:, :, l] * h + (dt * u)[:, :, l, None] * B[:, None, :, l]
        y[:, :, l] = np.einsum("bdn,bn->bd", h, C[:, :, l])
    result = {"out": (y + D * u) * gate, "last_state": h}

    dy = dout * gate
    if "z" in x:
        s = sigmoid(x["z"])
        result["dz"] = dout * (y + D * u) * s * (1 + x["z"] * (1 - s))
    du, ddt, dA, dB, dC = dy * D, np.zeros_like(u), np.zeros_like(A), np.zeros_like(B), np.zeros_like(C)
    adjoint = np.zeros_like(h)
    for l in reversed(range(length)):
        after = states[l + 1] if l + 1 < length else h
        dC[:, :, l] = np.einsum("bd,bdn->bn", dy[:, :, l], after)
        adjoint = adjoint + dy[:, :, l, None] * C[:, None, :, l]
        dB[:, :, l] = np.einsum("bdn,bd->bn", adjoint, (dt * u)[:, :, l])
        along_B = np.einsum("bdn,bn->bd", adjoint, B[:, :, l])
        adjoint = adjoint * decay[:, :, l]
        along_decay = adjoint * states[l]
        dA += np.einsum("bdn,bd->dn", along_decay, dt[:, :, l])
        ddt[:, :, l] = np.einsum("bdn,dn->bd", along_decay, A) + u[:, :, l] * along_B
        du[:, :, l] += dt[:, :, l] * along_B
    result.update(du=du, ddelta=ddt * slope, dA=dA, dB=dB, dC=dC)
    if "D" in x:
        result["dD"] = (dy * u).sum((0, 2))
    if "delta_bias" in x:
        result["ddelta_bias"] = result["ddelta"].sum((0, 2))
    return result


def random_scan(seed, batch, dim, length, state, gated=True):
    """Inputs of a scan and a gradient to feed back, of the size that a Vision Mamba block has after its initialization."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    case = {"u": normal(batch, dim, length), "delta": normal(batch, dim, length) - 2, "B": normal(batch, state, length),
            "C": normal(batch, state, length), "A": -rng.uniform(0.2, 8, (dim, state)).astype(np.float32), "D": normal(dim),
            "delta_bias": normal(dim), "dout": normal(batch, dim, length)}
    if gated:
        case["z"] = normal(batch, dim, length)
    return case


def conv(x, weight, bias, dout):
    """{out, dx, dweight, dbias} of the causal conv1d with SiLU; x (batch, dim, length), weight (dim, width), in float64."""
    x, weight, dout = (a.astype(np.float64) for a in (x, weight, dout))
    length, width = x.shape[2], weight.shape[1]
    before = np.pad(x, ((0, 0), (0, 0), (width - 1, 0)))
    y = sum(weight[None, :, k, None] * before[:, :, k:k + length] for k in range(width))
    y = y if bias is None else y + bias[None, :, None]
    s = sigmoid(y)
    g = dout * s * (1 + y * (1 - s))
    behind = np.pad(g, ((0, 0), (0, 0), (0, width - 1)))
    return {"out": y * s, "dx": sum(weight[None, :, k, None] * behind[:, :, width - 1 - k:width - 1 - k + length] for k in range(width)),
            "dweight": np.stack([(g * before[:, :, k:k + length]).sum((0, 2)) for k in range(width)], 1), "dbias": g.sum((0, 2))}
