"""RWKV-4 in plain PyTorch, as a careful user would write it for torch.compile: the peer of our benchmarks.

Formulas: arXiv:2305.13048, equations 11 to 18. The recurrence of wkv is compiled in pieces of a few tokens, since a
loop over all of them would be unrolled whole.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

PIECE = 16  # tokens of one compiled piece


def wkv_piece(decay, first, k, v, a, b, p):
    """wkv of k and v [B, t, C] after the state a, b, p [B, C]: numerator, denominator, largest exponent."""
    rows = []
    for kt, vt in zip(k.unbind(1), v.unbind(1)):
        q = torch.maximum(p, first + kt)
        before, now = torch.exp(p - q), torch.exp(first + kt - q)
        rows.append((before * a + now * vt) / (before * b + now))
        q = torch.maximum(p + decay, kt)
        before, now = torch.exp(p + decay - q), torch.exp(kt - q)
        a, b, p = before * a + now * vt, before * b + now, q
    return torch.stack(rows, 1), a, b, p


def wkv(decay, first, k, v, piece=wkv_piece):
    """wkv of whole sequences from the empty state; decay is the raw parameter."""
    w = -torch.exp(decay)
    a = torch.zeros_like(k[:, 0])
    b, p = torch.zeros_like(a), torch.full_like(a, -1e38)
    parts = []
    for kp, vp in zip(k.split(PIECE, 1), v.split(PIECE, 1)):
        y, a, b, p = piece(w, first, kp, vp, a, b, p)
        parts.append(y)
    return torch.cat(parts, 1)


def shift(x):
    return F.pad(x, (0, 0, 1, -1))


class TimeMix(nn.Module):
    def __init__(self, width, piece):
        super().__init__()
        self.piece = piece
        self.decay = nn.Parameter(torch.linspace(-5, 3, width))
        self.first = nn.Parameter(torch.zeros(width))
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(torch.full((width,), 0.5)) for _ in range(3))
        self.key, self.value, self.receptance, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x):
        before = shift(x)
        k = self.key(torch.lerp(before, x, self.mix_k)).float()
        v = self.value(torch.lerp(before, x, self.mix_v)).float()
        r = torch.sigmoid(self.receptance(torch.lerp(before, x, self.mix_r)))
        return self.output(r * wkv(self.decay, self.first, k, v, self.piece).to(r.dtype))


class ChannelMix(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix_k, self.mix_r = (nn.Parameter(torch.full((width,), 0.5)) for _ in range(2))
        self.key = nn.Linear(width, 4 * width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        before = shift(x)
        k = torch.relu(self.key(torch.lerp(before, x, self.mix_k))).square()
        return torch.sigmoid(self.receptance(torch.lerp(before, x, self.mix_r))) * self.value(k)


class Rwkv4(nn.Module):
    """Logits [B, T, vocab] of ids [B, T]. compiled: torch.compile for wkv's pieces and the channel mixes."""

    def __init__(self, layers, width, vocab, compiled=True):
        super().__init__()
        piece = torch.compile(wkv_piece) if compiled else wkv_piece
        self.emb = nn.Embedding(vocab, width)
        self.ln0 = nn.LayerNorm(width)
        self.ln1, self.ln2 = (nn.ModuleList(nn.LayerNorm(width) for _ in range(layers)) for _ in range(2))
        self.att = nn.ModuleList(TimeMix(width, piece) for _ in range(layers))
        self.ffn = nn.ModuleList(ChannelMix(width) for _ in range(layers))
        if compiled:
            for ffn in self.ffn:
                ffn.compile()
        self.ln_out = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(self, ids):
        x = self.ln0(self.emb(ids))
        for ln1, att, ln2, ffn in zip(self.ln1, self.att, self.ln2, self.ffn):
            x = x + att(ln1(x))
            x = x + ffn(ln2(x))
        return self.head(self.ln_out(x))
