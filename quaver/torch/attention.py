"""Multi-head attention whose GEMMs a precision computes: the projections, and the products between tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from quaver.torch.elementwise import masked, safe_softmax
from quaver.torch.layers import GemmLayer, _draws_as, _Linear, matmul
from quaver.torch.quantisers import Numbers


class MultiheadAttention(GemmLayer, nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention``, as `quaver.torch.convert` makes it of one.

    Query, key and value are projected by three GEMMs, each a third of `in_proj_weight`. Scaling, softmax and
    dropout lie between GEMMs and round as the model's other operations.
    """

    @staticmethod
    def why_not(module: nn.MultiheadAttention) -> str:
        """Why one cannot be converted; nothing if it can."""
        if not module._qkv_same_embed_dim:
            return "keys and values of another width than queries"
        if module.bias_k is not None or module.add_zero_attn:
            return "add_bias_kv or add_zero_attn"
        return ""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, which is missing; give the mask")
        batched = query.ndim == 3
        inputs = [x if batched else x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value)]
        if not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (self._projected(x, third) for third, x in enumerate(inputs))
        scores = matmul(q, k.mT, self.numerics, training=self.training) * self.head_dim**-0.5
        if attn_mask is not None:
            of_heads = attn_mask.ndim == 3
            mask = attn_mask.unflatten(0, (-1, self.num_heads)) if of_heads else attn_mask
            scores = masked(scores, mask)
        if key_padding_mask is not None:
            padding = key_padding_mask if batched else key_padding_mask[None]
            scores = masked(scores, padding[:, None, None, :])
        # As PyTorch's does, which gives NaN for a query without keys only where it gives weights.
        unmasked = attn_mask is None and key_padding_mask is None
        weights = torch.softmax(scores, -1) if need_weights or unmasked else safe_softmax(scores)
        weights = functional.dropout(weights, self.dropout, self.training)
        heads = matmul(weights, v, self.numerics, training=self.training)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))
        output = output if self.batch_first else output.transpose(0, 1)
        output = output if batched else output.squeeze(0 if self.batch_first else 1)
        if not need_weights:
            return output, None
        weights = weights.mean(1) if average_attn_weights else weights
        return output, weights if batched else weights[0]

    def _projected(self, x: Tensor, third: int) -> Tensor:
        """(batch, tokens, embedding) → (batch, heads, tokens, head_dim)."""
        rows = slice(third * self.embed_dim, (third + 1) * self.embed_dim)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        flat = x.flatten(0, 1)
        y: Any = _Linear.apply(
            flat, self.in_proj_weight[rows], bias, Numbers(), self.numerics, _draws_as(self)
        )
        return y.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
