"""VM-BeautyNet as one writes it in PyTorch without compiled kernels: timm's ViT and an eager Vim."""

import timm
import torch
from torch import nn
from torch.nn import functional as F


def selective_scan(u, delta, A, B, C, D, z, bias):
    """Mamba's scan, arXiv 2312.00752, with one unbind along the length and one stack.

    u, delta, z (b, d, l); A (d, n); B, C (b, n, l); D, bias (d).
    """
    delta = F.softplus(delta + bias[:, None])
    decay = torch.exp(delta.unsqueeze(-1) * A[:, None])
    drive = (delta * u).unsqueeze(-1) * B.transpose(1, 2).unsqueeze(1)
    h = A.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    states = []
    for a, x in zip(decay.unbind(2), drive.unbind(2)):
        h = a * h + x
        states.append(h)
    y = torch.einsum("bdln,bnl->bdl", torch.stack(states, 2), C) + u * D[:, None]
    return y * F.silu(z)


class Mixer(nn.Module):
    """Vim's bidirectional mixer (arXiv 2401.09417); the backward direction's names end in _b."""

    def __init__(self, dim, state=16, width=4):
        super().__init__()
        inner = 2 * dim
        self.state, self.rank = state, -(-dim // 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        for suffix in ("", "_b"):
            conv = nn.Conv1d(inner, inner, width, groups=inner, padding=width - 1)
            x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
            A_log = torch.arange(1.0, state + 1).log().repeat(inner, 1)
            setattr(self, f"conv1d{suffix}", conv)
            setattr(self, f"x_proj{suffix}", x_proj)
            setattr(self, f"dt_proj{suffix}", nn.Linear(self.rank, inner))
            setattr(self, f"A{suffix}_log", nn.Parameter(A_log))
            setattr(self, f"D{suffix}", nn.Parameter(torch.ones(inner)))

    def direction(self, xz, suffix):
        named = lambda name: getattr(self, name + suffix)
        x, z = xz.chunk(2, 1)
        x = F.silu(named("conv1d")(x)[..., : x.shape[2]])
        low = named("x_proj")(x.transpose(1, 2))
        dt, B, C = low.split([self.rank, self.state, self.state], -1)
        delta = F.linear(dt, named("dt_proj").weight).transpose(1, 2)
        A = -getattr(self, f"A{suffix}_log").exp()
        B, C = B.transpose(1, 2), C.transpose(1, 2)
        return selective_scan(x, delta, A, B, C, named("D"), z, named("dt_proj").bias)

    def forward(self, x):
        xz = self.in_proj(x).transpose(1, 2)
        y = self.direction(xz, "") + self.direction(xz.flip(2), "_b").flip(2)
        return self.out_proj(y.transpose(1, 2) / 2)


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.mixer = RmsNorm(dim), Mixer(dim)


class PatchEmbed(nn.Module):
    def __init__(self, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)


class VisionMamba(nn.Module):
    def __init__(self, image=224, patch=16, dim=192, depth=24):
        super().__init__()
        patches = (image // patch) ** 2
        self.patch_embed = PatchEmbed(dim, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, patches + 1, dim) * 0.02)
        self.layers = nn.ModuleList(Block(dim) for _ in range(depth))
        self.norm_f = RmsNorm(dim)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        middle = x.shape[1] // 2
        token = self.cls_token.expand(len(x), -1, -1)
        x = torch.cat([x[:, :middle], token, x[:, middle:]], 1) + self.pos_embed
        for block in self.layers:
            x = x + block.mixer(block.norm(x))
        return self.norm_f(x)[:, middle]


class Twin(nn.Module):
    """ViT-Ti and Vim-Ti, a weighted sum, and the regression head."""

    def __init__(self):
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=0)
        self.mamba = VisionMamba()
        self.project = nn.ModuleList(nn.Linear(192, 256) for _ in range(2))
        self.weights = nn.Parameter(torch.zeros(2))
        self.head = nn.Sequential(nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 1))

    def forward(self, x):
        weights = self.weights.softmax(0)
        vit, mamba = self.project[0](self.vit(x)), self.project[1](self.mamba(x))
        return self.head(weights[0] * vit + weights[1] * mamba).squeeze(1)
