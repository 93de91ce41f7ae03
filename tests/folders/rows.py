"""The table of layouts. A new one is one entry."""

from __future__ import annotations

from folders.build import HIDDEN, MEAN, POSITIONS, Part, Row

CONFIG, TOKENIZER, MODULE, MODEL = (
    "config.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
CLS = Part("Pooling", {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": True})
NORMALIZE = Part("Normalize")
TANH = "torch.nn.modules.activation.Tanh"
LINEAR = {"linear.weight": (HIDDEN, HIDDEN), "linear.bias": (HIDDEN,)}
SQUARE = {"in_features": HIDDEN, "out_features": HIDDEN, "bias": True, "activation_function": TANH}
DENSE = Part("Dense", SQUARE, LINEAR)
NARROW = Part(
    "Dense", {**SQUARE, "out_features": 8}, {"linear.weight": (8, HIDDEN), "linear.bias": (8,)}, "pytorch_model.bin"
)
IDENTITY = "torch.nn.modules.linear.Identity"
WIDE = Part(
    "Dense",
    {"in_features": 8, "out_features": 24, "bias": False, "activation_function": IDENTITY},
    {"linear.weight": (24, 8)},
)
LAYERS = {"word_embedding_dimension": HIDDEN, "layer_start": 1, "num_hidden_layers": 2}
AVERAGE = Part("WeightedLayerPooling", LAYERS, {"layer_weights": [1.0, 1.0]})
BASE, SIX = "sentence_transformers.base.modules.", "sentence_transformers.sentence_transformer.modules."
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "someone/base"}
WEIGHTS = "model.safetensors"


def pooling(**config: object) -> tuple[Part, ...]:
    return (Part("Pooling", {"embedding_dimension": HIDDEN, **config}),)


def without(*names: str, **rest: object) -> dict[str, object]:
    return {**dict.fromkeys(names), **rest}


def of_type(model_type: str) -> dict[str, object]:
    return {CONFIG: {"model_type": model_type}}


MODERN = {"local_attention": 6, **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"))}
BIASED = {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "layer_types": ["sliding_attention"] * 2}
BEFORE_LAYER_TYPES = {
    **{"layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 2},
    **{"global_rope_theta": 1000.0, "local_rope_theta": 10.0, "position_embedding_type": "absolute"},
}
YARN = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
QWEN = {"num_key_value_heads": 2, "head_dim": 6}
BEFORE_ROPE_PARAMETERS = {"rope_parameters": None, "layer_types": None, "rope_theta": 1000.0, "rope_scaling": None}
LAST = Part("Pooling", {"word_embedding_dimension": HIDDEN, "pooling_mode_lasttoken": True, "include_prompt": True})
LEFT = {TOKENIZER: {"padding_side": "left"}}
LOCAL = {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]}
QUERY = {MODEL: {"prompts": {"query": "the red ", "document": ""}, "default_prompt_name": "query"}}
GEMMA = {"query_pre_attn_scalar": 6, "use_bidirectional_attention": True, "sliding_window": 6, **QWEN}
GEMMA |= {"layer_types": ["sliding_attention", "full_attention"], "bos_token_id": None, "eos_token_id": None}
WIDER = {"in_features": HIDDEN, "out_features": 24, "bias": False, "activation_function": IDENTITY}
BACK = {**WIDER, "in_features": 24, "out_features": HIDDEN}
TWO_DENSE = (
    Part("Dense", WIDER, {"linear.weight": (24, HIDDEN)}),
    Part("Dense", BACK, {"linear.weight": (HIDDEN, 24)}),
)
CAUSAL = {CONFIG: {"use_bidirectional_attention": False}}

ROWS = (
    # Families and their tokenizers.
    Row("bert"),
    Row("bert, vocab.txt alone", tokenizer="wordpiece", files={"tokenizer.json": None}),
    Row("roberta", "roberta", "byte pairs"),
    Row("roberta, vocab.json and merges.txt", "roberta", "byte pairs", files={"tokenizer.json": None}),
    Row("xlm-roberta", "xlm-roberta", "unigram", parts=(MEAN, NORMALIZE)),
    Row("camembert", "camembert"),
    Row("distilbert", "distilbert", parts=(CLS, NORMALIZE)),
    Row("distilbert, an epsilon that it has not", "distilbert", files={CONFIG: {"layer_norm_eps": 0.5}}),
    Row("mpnet", "mpnet", parts=(MEAN, NORMALIZE)),
    Row("mpnet, a padding token that it has not", "mpnet", files={CONFIG: {"pad_token_id": 5}}),
    Row("electra", "electra", parts=(CLS,)),
    Row("electra, narrow embeddings", "electra", sizes={"embedding_size": 8}, refused="embedding_size 8"),
    Row("gpt2", files=of_type("gpt2"), refused="'gpt2'.*supported families are bert"),
    Row("xlm-roberta-xl", files=of_type("xlm-roberta-xl"), refused="'xlm-roberta-xl'.*supported families"),
    Row("modernbert", "modernbert", "byte pairs", sizes=MODERN),
    Row("modernbert, written before layer_types", "modernbert", sizes=MODERN, files={CONFIG: BEFORE_LAYER_TYPES}),
    Row("modernbert, biases and one window", "modernbert", sizes={**MODERN, **BIASED}, parts=(CLS, NORMALIZE)),
    Row("modernbert, other angles", "modernbert", files={CONFIG: {"rope_parameters": YARN}}, refused="rope_type"),
    *(
        Row(model_type, files=of_type(model_type), refused=f"'{model_type}'.*supported families")
        for model_type in ("nomic_bert", "qwen2", "llama", "mistral", "deberta-v2")
    ),
    Row("qwen3", "qwen3", "byte pairs", (LAST, NORMALIZE), sizes=QWEN, files={**LEFT, **QUERY}),
    Row("qwen3, written before rope_parameters", "qwen3", sizes=QWEN, files={CONFIG: BEFORE_ROPE_PARAMETERS}),
    Row("qwen3, no padding token", "qwen3", parts=(LAST,), sizes=QWEN, files={CONFIG: {"pad_token_id": None}}),
    Row("qwen3, local layers", "qwen3", sizes=QWEN, files={CONFIG: LOCAL}, refused="layer_types.*must name full"),
    Row(
        "qwen3, other angles",
        "qwen3",
        sizes=QWEN,
        files={CONFIG: {"rope_parameters": YARN["full_attention"]}},
        refused="rope_type",
    ),
    Row("gemma3_text", "gemma3_text", parts=(MEAN, *TWO_DENSE, NORMALIZE), sizes=GEMMA, files=QUERY),
    Row("gemma3_text, causal", "gemma3_text", sizes=GEMMA, files=CAUSAL, refused="use_bidirectional_attention False"),
    Row("decoder", files={CONFIG: {"is_decoder": True}}, refused="is_decoder"),
    Row("no padding token", files={CONFIG: {"pad_token_id": None}}),
    Row("no padding token to count from", "roberta", files={CONFIG: {"pad_token_id": None}}, refused="pad_token_id"),
    # Weights.
    Row("pytorch_model.bin", weights="pytorch_model.bin"),
    Row("float16", weights="float16"),
    Row("shards", weights="shards"),
    Row("adapter beside", files={"adapter_config.json": ADAPTER}, refused="adapter of someone/base.*PEFT"),
    Row("adapter", files={"adapter_config.json": ADAPTER, CONFIG: None, WEIGHTS: None}, refused="adapter.*PEFT"),
    Row("quantised", files={CONFIG: {"quantization_config": {"bits": 4}}}, refused="quantization_config"),
    Row("own code", files={CONFIG: {"auto_map": {"AutoModel": "modeling.Own"}}}, refused=r"auto_map: modeling\.Own"),
    # Modules.
    Row("no modules", parts=None, options={"pooling": "mean"}),
    Row("cls", parts=(CLS, NORMALIZE)),
    Row("names of release 6", parts=(Part("pooling.Pooling", dict(MEAN.config or {}), namespace=SIX),)),
    Row("pooling_mode", parts=pooling(pooling_mode="cls", include_prompt=True)),
    Row("pooling_mode, a list", parts=pooling(pooling_mode=["cls"])),
    Row("pooling_mode beside old flags", parts=pooling(pooling_mode="cls", pooling_mode_mean_tokens=True)),
    Row("no flag set", parts=pooling(pooling_mode_cls_token=False, pooling_mode_mean_tokens=False)),
    Row("max", parts=(*pooling(pooling_mode_max_tokens=True), NORMALIZE)),
    Row("mean over a root", parts=pooling(pooling_mode="mean_sqrt_len_tokens")),
    Row("weighted mean", "roberta", "byte pairs", pooling(pooling_mode_weightedmean_tokens=True)),
    Row("last token", "mpnet", parts=(*pooling(pooling_mode="lasttoken"), NARROW, NORMALIZE)),
    Row("no mode", parts=pooling(pooling_mode=[]), refused="pools with nothing"),
    Row("a mode that is none", parts=pooling(pooling_mode="median"), refused="1_Pooling.*pooling_mode is 'median'"),
    Row("a number", parts=pooling(pooling_mode=5), refused="1_Pooling/config.json: pooling_mode is 5"),
    Row("a null", parts=pooling(pooling_mode=None), refused="1_Pooling/config.json: pooling_mode is None"),
    Row("a list of lists", parts=pooling(pooling_mode=[["mean"]]), refused="pooling_mode is"),
    Row("two poolings", parts=pooling(pooling_mode=["mean", "cls"]), refused=r"mean \+ cls"),
    Row("without the prompt", parts=pooling(pooling_mode="mean", include_prompt=False), refused="include_prompt"),
    Row("unknown key", parts=pooling(pooling_mode="mean", temperature=2), refused="1_Pooling.*temperature"),
    Row("dense", parts=(CLS, DENSE, NORMALIZE)),
    Row("dense without bias", parts=(CLS, Part("Dense", {**SQUARE, "bias": False}, {"linear.weight": (16, 16)}))),
    Row("dense, pytorch_model.bin", parts=(CLS, Part("Dense", SQUARE, LINEAR, "pytorch_model.bin"), NORMALIZE)),
    Row("dense without weights", parts=(CLS, Part("Dense", SQUARE)), refused="2_Dense"),
    Row("dense of another shape", parts=(CLS, Part("Dense", SQUARE, NARROW.tensors)), refused="2_Dense"),
    Row("narrower", parts=(MEAN, NARROW)),
    Row("narrower, layers averaged", parts=(AVERAGE, MEAN, NARROW), files={CONFIG: {"output_hidden_states": True}}),
    Row("dense after the mean", "distilbert", parts=(MEAN, DENSE, NORMALIZE)),
    Row("two dense", parts=(CLS, DENSE, DENSE)),
    Row("narrower, then wider", parts=(MEAN, NARROW, WIDE, NORMALIZE)),
    Row("dense that does not fit", parts=(MEAN, WIDE), refused="takes vectors of 8 numbers.*gives 16"),
    Row("bias without one", parts=(CLS, Part("Dense", {**SQUARE, "bias": False}, LINEAR)), refused="2_Dense"),
    Row("bias in words", parts=(CLS, Part("Dense", {**SQUARE, "bias": "no"}, LINEAR)), refused="2_Dense.*bias"),
    Row(
        "width in words",
        parts=(CLS, Part("Dense", {**SQUARE, "in_features": "16"}, LINEAR)),
        refused="2_Dense/config.json: in_features is '16'",
    ),
    Row("normalised before", parts=(CLS, NORMALIZE, DENSE), refused="Normalize \\+ Dense"),
    Row("no activation", parts=(CLS, Part("Dense", {**SQUARE, "activation_function": IDENTITY}, LINEAR))),
    Row(
        "other activation",
        parts=(CLS, Part("Dense", {**SQUARE, "activation_function": "torch.nn.modules.activation.ReLU"}, LINEAR)),
        refused="activation_function",
    ),
    Row("residual", parts=(CLS, Part("Dense", {**SQUARE, "use_residual": True}, LINEAR)), refused="use_residual"),
    Row(
        "token vectors normalised",
        parts=(MEAN, Part("Normalize", {"module_input_name": "token_embeddings"})),
        refused="module_input_name",
    ),
    Row("first and last layer", parts=(AVERAGE, MEAN), files={CONFIG: {"output_hidden_states": True}}),
    Row("average that is not computed", parts=(AVERAGE, MEAN), refused="output_hidden_states"),
    Row(
        "average with the embeddings",
        parts=(Part("WeightedLayerPooling", {**LAYERS, "layer_start": 0}, {"layer_weights": [1.0, 0.0, 1.0]}), MEAN),
        files={CONFIG: {"output_hidden_states": True}},
        refused="layer_start",
    ),
    Row("lstm", parts=(Part("LSTM", {}), MEAN), refused="LSTM"),
    Row("own module", parts=(MEAN, Part("Head", {}, namespace="modeling_own.")), refused=r"modeling_own\.Head"),
    Row("module arguments", parts=(Part("Pooling", MEAN.config, line={"kwargs": ["task"]}),), refused="kwargs"),
    Row("path above", parts=(Part("Pooling", MEAN.config, path="../1_Pooling"),), refused=r"\.\./1_Pooling"),
    Row("path of the machine", parts=(Part("Pooling", MEAN.config, path="/tmp/1_Pooling"),), refused="/tmp/1_Pooling"),
    Row(
        "0_Transformer", path="0_Transformer", files={f"0_Transformer/{MODULE}": {"max_seq_length": 12}}, max_length=12
    ),
    # The limit of length.
    Row("tokenizer's limit", files={TOKENIZER: {"model_max_length": 16}}, max_length=16),
    Row("no limit but the positions", files={TOKENIZER: {"model_max_length": 10**30}}, max_length=POSITIONS),
    Row("none, positions counted", "mpnet", files={TOKENIZER: {"model_max_length": 10**30}}, max_length=POSITIONS),
    Row("module's limit", files={MODULE: {"max_seq_length": 16}}, max_length=16),
    Row("module above tokenizer", files={MODULE: {"max_seq_length": 44}}, max_length=44),
    Row("null", files={MODULE: {"max_seq_length": None}, TOKENIZER: {"model_max_length": 9}}, max_length=9),
    Row("above the positions", files={MODULE: {"max_seq_length": 8192}}, max_length=POSITIONS),
    Row(
        "no modules, files that are not read",
        parts=None,
        files={MODEL: {"prompts": {"query": "the old "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}},
        options={"pooling": "mean"},
    ),
    Row("no modules, tokenizer's limit", parts=None, options={"pooling": "cls", "max_length": 7}, max_length=7),
    *(
        Row(f"limit of {name}", files={f"sentence_{name}_config.json": {"max_seq_length": 11}}, max_length=11)
        for name in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
    Row("too short", files={MODULE: {"max_seq_length": 2}}, refused="max_seq_length is 2"),
    Row("length in words", files={MODULE: {"max_seq_length": "16"}}, refused="max_seq_length is '16'"),
    # What else the Transformer's file asks for.
    Row("lower case", tokenizer="cased", files={MODULE: {"do_lower_case": True}}),
    Row("lower case twice", files={MODULE: {"do_lower_case": True}}),
    Row("cased", tokenizer="cased"),
    Row("other arguments", files={MODULE: {"tokenizer_args": {"use_fast": False}}}, refused="tokenizer_args"),
    Row("processing", files={MODULE: {"processing_kwargs": {"text": {"max_length": 4}}}}, refused="processing_kwargs"),
    Row("length of queries", files={MODULE: {"query_length": 4}}, refused="query_length"),
    Row("other task", files={MODULE: {"transformer_task": "fill-mask"}}, refused="transformer_task"),
    Row("unknown to the module", files={MODULE: {"stride": 4}}, refused="stride"),
    # Tokenizers.
    Row("no tokenizer", files=without("tokenizer.json", TOKENIZER), refused="no vocabulary"),
    Row("no tokenizer, mpnet", "mpnet", files=without("tokenizer.json", TOKENIZER), refused="no vocabulary"),
    Row("no merges", "roberta", "byte pairs", files=without("tokenizer.json", "merges.txt"), refused="no vocabulary"),
    Row("too many tokens", sizes={"vocab_size": 80}, refused="'.' has the id|has the id 83"),
    Row("own tokenizer", files={TOKENIZER: {"auto_map": {"AutoTokenizer": ["own.T", None]}}}, refused="auto_map"),
    Row("padding on the left", files={TOKENIZER: {"padding_side": "left"}}, refused="padding_side"),
    Row("padding on the left, counted", "camembert", files={TOKENIZER: {"padding_side": "left"}}),
    Row(
        "last token, padding on the left",
        "camembert",
        parts=pooling(pooling_mode="lasttoken"),
        files={TOKENIZER: {"padding_side": "left"}},
    ),
    Row("cut on the left", files={TOKENIZER: {"truncation_side": "left", "model_max_length": 8}}, max_length=8),
    # What belongs to the whole model.
    Row("prompts", files={MODEL: {"prompts": {"query": "the old ", "document": ""}, "default_prompt_name": "query"}}),
    Row("a default of release 6", files={MODEL: {"prompts": {}, "default_prompt_name": "query"}}),
    Row("a default in a list", files={MODEL: {"default_prompt_name": ["query"]}}, refused="default_prompt_name"),
    Row("a default that is none", files={MODEL: {"prompts": {}, "default_prompt_name": "x"}}, refused="'x'"),
    Row("dot product", files={MODEL: {"similarity_fn_name": "dot"}}),
    Row("maxsim", files={MODEL: {"similarity_fn_name": "maxsim"}}, refused="similarity_fn_name"),
    Row("cut vectors", files={MODEL: {"truncate_dim": 8}}),
    Row("cut after normalising", parts=(MEAN, NORMALIZE), files={MODEL: {"truncate_dim": 5}}),
    Row("cut after dense", parts=(CLS, DENSE, NORMALIZE), files={MODEL: {"truncate_dim": 1}}),
    Row("cut to all", files={MODEL: {"truncate_dim": HIDDEN}}),
    Row("cut without modules", parts=None, options={"pooling": "mean"}, files={MODEL: {"truncate_dim": 8}}),
    Row("cut to nothing", files={MODEL: {"truncate_dim": 0}}, refused="truncate_dim is 0"),
    Row("cut in words", files={MODEL: {"truncate_dim": "8"}}, refused="truncate_dim is '8'"),
    Row("cut above the vector", files={MODEL: {"truncate_dim": 17}}, refused="truncate_dim is 17.*16 values"),
    Row("sparse encoder", files={MODEL: {"model_type": "SparseEncoder"}}, refused="SparseEncoder"),
)
