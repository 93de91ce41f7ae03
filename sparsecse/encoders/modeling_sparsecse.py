"""The encoder that sparsecse writes: a BERT-style Transformer whose layers keep their own number of heads and neurons.

One class stands for BERT, RoBERTa, XLM-RoBERTa, DistilBERT and MPNet; what differs between them is in the configuration
(how positions are counted, token types, relative attention bias). This file needs torch and transformers only and
travels with the weights, so that a packed folder loads where sparsecse is not installed. Parameter names are BERT's.
A layer left without heads (or without neurons) keeps the output bias of that block and nothing else.

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


class Bias(nn.Module):
    """What is left of a Linear layer that has lost all of its inputs."""

    def __init__(self, size):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        return self.bias.expand(*x.shape[:-1], -1)


class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.offset = config.position_offset
        self.pad_token_id = config.pad_token_id
        self.has_token_types = bool(config.type_vocab_size)

    def forward(self, input_ids, token_type_ids=None, position_ids=None):
        if position_ids is None:
            if self.offset:
                real = input_ids.ne(self.pad_token_id).long()
                position_ids = real.cumsum(dim=1) * real + self.offset - 1
            else:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        embedded = self.word_embeddings(input_ids)
        if self.has_token_types:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            embedded = embedded + self.token_type_embeddings(types)
        return self.dropout(self.LayerNorm(embedded + self.position_embeddings(position_ids)))


def padded_attention(mask_bias):
    """Attention over [batch, length, heads, head_size]; mask_bias [batch, 1, 1, length], or None, hides padding."""

    def attend(query, key, value, relative_bias, dropout):
        bias = mask_bias
        if relative_bias is not None:
            bias = relative_bias.unsqueeze(0) if mask_bias is None else mask_bias + relative_bias
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        return context.transpose(1, 2)

    return attend


class SelfAttention(nn.Module):
    def __init__(self, config, num_heads):
        super().__init__()
        self.num_heads, self.head_size = num_heads, config.attention_head_size
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Linear(config.hidden_size, num_heads * self.head_size))
        self.dropout_prob = config.attention_probs_dropout_prob

    def forward(self, hidden, attend, relative_bias):
        shape = (*hidden.shape[:-1], self.num_heads, self.head_size)
        query, key, value = (project(hidden).view(shape) for project in (self.query, self.key, self.value))
        dropout = self.dropout_prob if self.training else 0.0
        return attend(query, key, value, relative_bias, dropout).flatten(-2)


class Output(nn.Module):
    """Back to the hidden size, then the residual sum and its LayerNorm."""

    def __init__(self, config, in_features):
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size) if in_features else Bias(config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    def __init__(self, config, num_heads):
        super().__init__()
        self.self = SelfAttention(config, num_heads) if num_heads else None
        self.output = Output(config, num_heads * config.attention_head_size)

    def forward(self, hidden, attend, relative_bias):
        context = hidden if self.self is None else self.self(hidden, attend, relative_bias)
        return self.output(context, hidden)


class Intermediate(nn.Module):
    def __init__(self, config, num_neurons):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, num_neurons)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden):
        return self.activation(self.dense(hidden))


class Layer(GradientCheckpointingLayer):
    def __init__(self, config, num_heads, num_neurons):
        super().__init__()
        self.attention = Attention(config, num_heads)
        self.intermediate = Intermediate(config, num_neurons) if num_neurons else None
        self.output = Output(config, num_neurons)

    def forward(self, hidden, attend, relative_bias):
        hidden = self.attention(hidden, attend, relative_bias)
        activation = hidden if self.intermediate is None else self.intermediate(hidden)
        return self.output(activation, hidden)


class LayerStack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, heads, neurons) for heads, neurons in config.layer_sizes())
        self.num_buckets = config.relative_attention_num_buckets
        if self.num_buckets:
            all_heads = config.hidden_size // config.attention_head_size
            self.relative_attention_bias = nn.Embedding(self.num_buckets, all_heads)
        self.kept_heads = config.kept_heads

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
        """For each layer the bias of its own heads, [heads, *shape of distance], or None where the family has none."""
        if not self.num_buckets:
            return [None] * len(self.layer)
        bias = self.relative_bias(distance)
        return [bias if self.kept_heads is None else bias[self.kept_heads[i]] for i in range(len(self.layer))]

    def forward(self, hidden, attend, distance):
        states = [hidden]
        for layer, bias in zip(self.layer, self.relative_biases(distance), strict=True):
            hidden = layer(hidden, attend, bias)
            states.append(hidden)
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
        [heads, 2 * reach - 1], whose column reach - 1 + key - query is added to the scaled product of two positions.

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
        return self.encoder(hidden, attend, distance)


SparseCSEConfig.register_for_auto_class("AutoConfig")
SparseCSEModel.register_for_auto_class("AutoModel")
