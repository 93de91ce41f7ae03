"""The encoder that sparsecse writes: a BERT-style Transformer whose layers keep their own number of heads and neurons.

One class stands for BERT, RoBERTa, XLM-RoBERTa, DistilBERT, MPNet, ModernBERT, Qwen3 and Gemma3; what differs between
them is in the configuration (positions, token types, biases, kind and place of norms, gated neurons, local and causal
attention, shared keys and values). This file needs torch and transformers only and travels with the weights, so that a
packed folder loads where sparsecse is not installed. Parameter names are BERT's. A layer left without heads (or without
neurons) keeps the output bias of that block, where there is one, and a norm after it, and nothing else.

Tokens come padded, [batch, length], or packed, [total_tokens]: sentences one after another without padding. All but
attention works on single tokens and does not see the difference; attention over packed tokens is handed in.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling


class SparseCSEConfig(PretrainedConfig):
    """Sizes of the encoder.

    `per_layer_config` uses transformers' own vocabulary: `{"3": {"num_attention_heads": 5, "intermediate_size": 700}}`
    holds what differs from the values given for all layers. `attention_head_size` is the same everywhere.

    position_offset: 0 counts positions from 0 (BERT, DistilBERT); k > 0 counts the tokens that are not padding from k
        (RoBERTa and MPNet, where k is pad_token_id + 1).
    type_vocab_size: 0 where the family has no token types.
    relative_attention_num_buckets: 0, or the rows of MPNet's shared table of relative attention biases.
    kept_heads: for each layer, the original index of each head that is left; which column of that table it reads.
    norm: "LayerNorm", or "RMSNorm", which has no bias; the modules of either are called LayerNorm.
    embedding_norm: whether there is one after the embeddings.
    embedding_scale: what embedded tokens are multiplied by.
    norm_first: norms stand before each half of a layer, and one after the last layer, instead of after each half.
    norm_outputs: with norm_first, whether one more stands after each half, before it is added to what came in.
    first_attention_norm: with norm_first, whether the first layer's attention has one (ModernBERT's has not).
    norm_bias, attention_bias, feed_forward_bias: whether norms and these projections have biases.
    query_key_norm: whether each head's query and key are normalised, before they are turned.
    key_value_heads: for each layer which key and value each head looks at, from 0 and ascending; None where each head
        has its own.
    gated: a neuron is the activation of one projection times another one, instead of the activation alone.
    rotary_bases: for each layer the base of the angles that queries and keys are turned by; None where positions are
        embedded.
    attention_windows: for each layer how far a token sees to either side, or None for all; None where all see all.
    causal: a token sees itself and those before it only.
    has_pooler: whether the checkpoint carries BERT's linear + tanh over the first token.
    original_model_type: the transformers family that the weights come from.
    weight_storage: "int8" where the file holds matrices as int8 with one scale per row; they become floats at load.
    """

    model_type = "sparsecse"

    def __init__(
        self,
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        attention_head_size=64,
        intermediate_size=3072,
        hidden_act="gelu",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        max_position_embeddings=512,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        initializer_range=0.02,
        position_offset=0,
        relative_attention_num_buckets=0,
        kept_heads=None,
        norm="LayerNorm",
        embedding_norm=True,
        embedding_scale=1.0,
        norm_first=False,
        norm_outputs=False,
        first_attention_norm=True,
        norm_bias=True,
        attention_bias=True,
        feed_forward_bias=True,
        gated=False,
        query_key_norm=False,
        key_value_heads=None,
        rotary_bases=None,
        attention_windows=None,
        causal=False,
        has_pooler=False,
        original_model_type="bert",
        weight_storage=None,
        pad_token_id=0,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.attention_head_size = attention_head_size
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.position_offset = position_offset
        self.relative_attention_num_buckets = relative_attention_num_buckets
        self.kept_heads = kept_heads
        self.norm = norm
        self.embedding_norm = embedding_norm
        self.embedding_scale = embedding_scale
        self.norm_first = norm_first
        self.norm_outputs = norm_outputs
        self.first_attention_norm = first_attention_norm
        self.norm_bias = norm_bias
        self.attention_bias = attention_bias
        self.feed_forward_bias = feed_forward_bias
        self.gated = gated
        self.query_key_norm = query_key_norm
        self.key_value_heads = key_value_heads
        self.rotary_bases = rotary_bases
        self.attention_windows = attention_windows
        self.causal = causal
        self.has_pooler = has_pooler
        self.original_model_type = original_model_type
        self.weight_storage = weight_storage
        self.pad_token_id = pad_token_id
        super().__init__(**{**kwargs, "pad_token_id": pad_token_id})

    def layer_sizes(self):
        """For each layer its (number of heads, number of neurons)."""
        per_layer = getattr(self, "per_layer_config", None) or {}
        if isinstance(per_layer, dict):  # transformers before 5.14 keeps the mapping as it was given
            shared = {"num_attention_heads": self.num_attention_heads, "intermediate_size": self.intermediate_size}
            layers = [{**shared, **per_layer.get(str(i), {})} for i in range(self.num_hidden_layers)]
            return [(layer["num_attention_heads"], layer["intermediate_size"]) for layer in layers]
        return [(layer.num_attention_heads, layer.intermediate_size) for layer in per_layer]


def stored_as_int8(model):
    """The modules whose matrix an int8 file holds as `weight` (int8) and `weight_scale` ([rows, 1])."""
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Embedding))]


# Added to the scaled product of two tokens that do not see each other; finite, as attention in blocks subtracts maxima.
HIDDEN = -1e30


class Bias(nn.Module):
    """What is left of a Linear layer that has lost all of its inputs; zeros if it had no bias."""

    def __init__(self, size, bias):
        super().__init__()
        self.size = size
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x):
        return x.new_zeros(*x.shape[:-1], self.size) if self.bias is None else self.bias.expand(*x.shape[:-1], -1)


def layer_norm(config, size=None):
    size = config.hidden_size if size is None else size
    if config.norm == "RMSNorm":
        return nn.RMSNorm(size, eps=config.layer_norm_eps)
    return nn.LayerNorm(size, eps=config.layer_norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        # No padding_idx: where a family has no padding token, pad_token_id is a word's, which learns as others do.
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.has_positions = config.rotary_bases is None
        if self.has_positions:
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = layer_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.scale = config.embedding_scale
        self.offset = config.position_offset
        self.pad_token_id = config.pad_token_id
        self.has_token_types = bool(config.type_vocab_size)

    def forward(self, input_ids, token_type_ids=None, position_ids=None):
        if position_ids is None and self.has_positions:
            if self.offset:
                real = input_ids.ne(self.pad_token_id).long()
                position_ids = real.cumsum(dim=1) * real + self.offset - 1
            else:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        embedded = self.word_embeddings(input_ids)
        if self.scale != 1:
            embedded = embedded * self.scale
        if self.has_token_types:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            embedded = embedded + self.token_type_embeddings(types)
        if self.has_positions:
            embedded = embedded + self.position_embeddings(position_ids)
        return self.dropout(embedded if self.LayerNorm is None else self.LayerNorm(embedded))


def padded_attention(mask_bias):
    """Attention over [batch, length, heads, head_size]; mask_bias [batch, 1, 1, length], or None, hides padding."""

    def attend(query, key, value, relative_bias, dropout):
        bias = mask_bias
        if relative_bias is not None:
            relative_bias = relative_bias.to(query.dtype)
            bias = relative_bias.unsqueeze(0) if mask_bias is None else mask_bias + relative_bias
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return context.transpose(1, 2)

    return attend


def rotation(base, positions, head_size):
    """Cosine and sine of the angles of positions of any shape: two tensors [*shape, 1, head_size], float32."""
    steps = torch.arange(0, head_size, 2, device=positions.device).float() / head_size
    angles = positions[..., None, None].float() * (1.0 / base**steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotated(x, cosine, sine):
    """x [..., heads, head_size], whose value i of the first half makes a pair with value i of the second one."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second = wide.chunk(2, dim=-1)
    return (wide * cosine + torch.cat((-second, first), dim=-1) * sine).to(x.dtype)


class SelfAttention(nn.Module):
    """sources: which key and value each head looks at; None for its own."""

    def __init__(self, config, num_heads, norm, sources):
        super().__init__()
        self.head_size, self.sources = config.attention_head_size, sources
        self.LayerNorm = layer_norm(config) if norm else None
        pairs = num_heads if sources is None else sources[-1] + 1
        for name, count in (("query", num_heads), ("key", pairs), ("value", pairs)):
            setattr(self, name, nn.Linear(config.hidden_size, count * self.head_size, bias=config.attention_bias))
        for name in ("query_norm", "key_norm"):
            setattr(self, name, layer_norm(config, self.head_size) if config.query_key_norm else None)
        self.dropout_prob = config.attention_probs_dropout_prob

    def forward(self, hidden, attend, relative_bias, turn):
        if self.LayerNorm is not None:
            hidden = self.LayerNorm(hidden)
        projected = (project(hidden) for project in (self.query, self.key, self.value))
        query, key, value = (x.unflatten(-1, (-1, self.head_size)) for x in projected)
        if self.query_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if turn is not None:
            query, key = rotated(query, *turn), rotated(key, *turn)
        if self.sources is not None:
            key, value = (
                torch.stack([each[i] for i in self.sources], -2) for each in (key.unbind(-2), value.unbind(-2))
            )
        dropout = self.dropout_prob if self.training else 0.0
        return attend(query, key, value, relative_bias, dropout).flatten(-2)


class Output(nn.Module):
    """Back to the hidden size, then the residual sum and, unless norms come first, its norm.

    norm_before_sum: the norm is that of the summand.
    """

    def __init__(self, config, in_features, bias):
        super().__init__()
        size = config.hidden_size
        self.dense = nn.Linear(in_features, size, bias=bias) if in_features else Bias(size, bias)
        self.norm_before_sum = config.norm_first and config.norm_outputs
        self.LayerNorm = layer_norm(config) if self.norm_before_sum or not config.norm_first else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x, residual):
        output = self.dense(x)
        if self.LayerNorm is None:
            return self.dropout(output) + residual
        if self.norm_before_sum:
            return self.dropout(self.LayerNorm(output)) + residual
        return self.LayerNorm(self.dropout(output) + residual)


class Attention(nn.Module):
    def __init__(self, config, num_heads, norm, sources):
        super().__init__()
        self.self = SelfAttention(config, num_heads, norm, sources) if num_heads else None
        self.output = Output(config, num_heads * config.attention_head_size, config.attention_bias)

    def forward(self, hidden, *place):
        context = hidden if self.self is None else self.self(hidden, *place)
        return self.output(context, hidden)


class Intermediate(nn.Module):
    def __init__(self, config, num_neurons):
        super().__init__()
        sizes, bias = (config.hidden_size, num_neurons), config.feed_forward_bias
        self.LayerNorm = layer_norm(config) if config.norm_first else None
        self.dense = nn.Linear(*sizes, bias=bias)
        self.value = nn.Linear(*sizes, bias=bias) if config.gated else None
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden):
        if self.LayerNorm is not None:
            hidden = self.LayerNorm(hidden)
        activation = self.activation(self.dense(hidden))
        return activation if self.value is None else activation * self.value(hidden)


class Layer(GradientCheckpointingLayer):
    def __init__(self, config, index, num_heads, num_neurons):
        super().__init__()
        norm = config.norm_first and (index > 0 or config.first_attention_norm)
        sources = None if config.key_value_heads is None else config.key_value_heads[index]
        self.attention = Attention(config, num_heads, norm, sources)
        self.intermediate = Intermediate(config, num_neurons) if num_neurons else None
        self.output = Output(config, num_neurons, config.feed_forward_bias)

    def forward(self, hidden, *place):
        """place: attend, and this layer's entries of `LayerStack.relative_biases` and `LayerStack.turns`."""
        hidden = self.attention(hidden, *place)
        activation = hidden if self.intermediate is None else self.intermediate(hidden)
        return self.output(activation, hidden)


class LayerStack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, i, *sizes) for i, sizes in enumerate(config.layer_sizes()))
        self.num_buckets = config.relative_attention_num_buckets
        if self.num_buckets:
            all_heads = config.hidden_size // config.attention_head_size
            self.relative_attention_bias = nn.Embedding(self.num_buckets, all_heads)
        self.kept_heads = config.kept_heads
        self.windows, self.bases, self.causal = config.attention_windows, config.rotary_bases, config.causal
        self.head_size = config.attention_head_size
        self.LayerNorm = layer_norm(config) if config.norm_first else None

    def relative_bias(self, distance):
        """MPNet's bias for distances key - query of any shape: [all heads, *shape]."""
        half = self.num_buckets // 2
        exact = half // 2
        reach = distance.abs()
        steps = torch.log(reach.clamp(min=1).float() / exact) / math.log(128 / exact) * (half - exact)
        far = (exact + steps.long()).clamp(max=half - 1)
        bucket = torch.where(reach < exact, reach, far) + (distance > 0).long() * half
        return self.relative_attention_bias(bucket).movedim(-1, 0)

    def relative_biases(self, distance):
        """For each layer what is added to scaled products at distances key - query, [heads or 1, *shape], or None."""
        if not self.num_buckets:
            windows = [None] * len(self.layer) if self.windows is None else self.windows
            hiding = {window: self.hiding(distance, window) for window in set(windows)}
            return [hiding[window] for window in windows]
        bias = self.relative_bias(distance)
        return [bias if self.kept_heads is None else bias[self.kept_heads[i]] for i in range(len(self.layer))]

    def hiding(self, distance, window):
        """`HIDDEN` at distances beyond a window, and ahead where attention is causal: [1, *shape], or None."""
        if self.causal:
            unseen = (distance > 0) if window is None else (distance > 0) | (distance < -window)
        else:
            unseen = None if window is None else distance.abs() > window
        return None if unseen is None else HIDDEN * unseen[None]

    def turns(self, positions):
        """For each layer the `rotation` of positions of any shape, or None where positions are embedded."""
        if self.bases is None:
            return [None] * len(self.layer)
        turns = {base: rotation(base, positions, self.head_size) for base in set(self.bases)}
        return [turns[base] for base in self.bases]

    def forward(self, hidden, attend, distance, positions):
        states = [hidden]
        places = zip(self.relative_biases(distance), self.turns(positions), strict=True)
        for layer, place in zip(self.layer, places, strict=True):
            hidden = layer(hidden, attend, *place)
            states.append(hidden)
        if self.LayerNorm is not None:
            hidden = states[-1] = self.LayerNorm(hidden)
        return hidden, tuple(states)


class Pooler(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_tokens):
        return torch.tanh(self.dense(first_tokens))


class SparseCSEModel(PreTrainedModel):
    config_class = SparseCSEConfig
    config: SparseCSEConfig
    base_model_prefix = "encoder_model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Embeddings", "Layer"]  # noqa: RUF012
    # A function of (model, input_ids, attention_mask, token_type_ids) that gives the last hidden state faster than the
    # operators below, or None where it does not apply. sparsecse sets it; without sparsecse there is none.
    native_forward = None

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(config)
        self.pooler = Pooler(config) if config.has_pooler else None
        if config.weight_storage == "int8":
            for module in stored_as_int8(self):
                shape = module.weight.shape
                module.weight = nn.Parameter(torch.zeros(shape, dtype=torch.int8), requires_grad=False)
                module.weight_scale = nn.Parameter(torch.ones(shape[0], 1), requires_grad=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """As everywhere in transformers; an int8 file is turned into floats here, after which nothing is special."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.config.weight_storage == "int8":
            for module in stored_as_int8(model):
                weight = module.weight.to(module.weight_scale.dtype) * module.weight_scale
                del module.weight_scale
                module.weight = nn.Parameter(weight)
            model.config.weight_storage = None
        return loaded

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value):
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        output_hidden_states=None,
        return_dict=None,
        attend=None,
        **kwargs,
    ):
        """Token ids [batch, length] and a mask of 0/1 -> last_hidden_state [batch, length, hidden_size].

        Packed: token ids and position_ids, [total_tokens] each, and the function that knows where sentences begin,
        attend(query, key, value, relative_bias, dropout), from three times [total_tokens, heads, head_size] to one
        -> last_hidden_state [total_tokens, hidden_size], without pooler_output. relative_bias is None or
        [heads or 1, 2 * reach - 1], whose column reach - 1 + key - query is added to two positions' scaled product.

        Where `native_forward` computes, the vectors of padding are zeros.
        """
        packed = attend is not None
        with_states = output_hidden_states or self.config.output_hidden_states
        hidden = states = None
        plain = not (packed or with_states or position_ids is not None or torch.compiler.is_compiling())
        if plain and self.native_forward is not None:
            hidden = self.native_forward(self, input_ids, attention_mask, token_type_ids)
        if hidden is None:
            hidden, states = self._torch_forward(input_ids, attention_mask, token_type_ids, position_ids, attend)
        output = BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=None if packed or self.pooler is None else self.pooler(hidden[:, 0]),
            hidden_states=states if with_states else None,
        )
        return output if return_dict is None or return_dict else output.to_tuple()

    def _torch_forward(self, input_ids, attention_mask, token_type_ids, position_ids, attend):
        """The last hidden state, and the states before, between and after the layers."""
        hidden = self.embeddings(input_ids, token_type_ids, position_ids)
        if attend is not None:
            reach = self.config.max_position_embeddings
            distance = torch.arange(1 - reach, reach, device=hidden.device)
        else:
            bias = None
            if attention_mask is not None:
                bias = torch.zeros(attention_mask.shape, dtype=hidden.dtype, device=hidden.device)
                bias = bias.masked_fill(attention_mask == 0, torch.finfo(hidden.dtype).min)[:, None, None, :]
            attend = padded_attention(bias)
            position = torch.arange(hidden.shape[1], device=hidden.device)
            distance = position[None, :] - position[:, None]
            position_ids = position.unsqueeze(0) if position_ids is None else position_ids
        return self.encoder(hidden, attend, distance, position_ids)


SparseCSEConfig.register_for_auto_class("AutoConfig")
SparseCSEModel.register_for_auto_class("AutoModel")
