"""The native runtime where people are: packed folders, `accelerate`, and transformers' attention interface."""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import NATIVE_FAMILIES
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import AutoModel, AutoTokenizer, DataCollatorWithFlattening

from sparsecse.encoders import FAMILIES as SUPPORTED
from sparsecse.encoders import load_encoder, save_encoder
from sparsecse.encoders.gates import Gates, gated
from sparsecse.errors import InputError
from sparsecse.kernels import dispatch
from sparsecse.pruning.masks import Budget, select
from sparsecse.pruning.surgery import prune
from sparsecse.runtime import Runtime, accelerate, native, native_forward
from sparsecse.scoring import random

needs_extension = pytest.mark.skipif(dispatch.native_extension() is None, reason="the compiled extension is missing")
WITH_INTERFACE = [family for family in NATIVE_FAMILIES if family not in ("mpnet", "modernbert")]


def write_packed(encoder, folder):
    """Save `encoder` with heads and neurons cut unevenly; returns what was saved."""
    scores = random(encoder, 0)
    smaller = prune(encoder, select(scores, Budget.of(scores.sizes(), sparsity=0.4)))
    folder.mkdir()
    save_encoder(smaller, folder)
    return smaller


@pytest.fixture
def packed(bert, tmp_path):
    """A packed tiny BERT as `AutoModel` loads it, with frozen weights."""
    write_packed(bert, tmp_path / "packed")
    return AutoModel.from_pretrained(tmp_path / "packed").eval().requires_grad_(False)


@pytest.fixture
def batch(sentences, checkpoints):
    """Ids and mask of sentences of several lengths, padded on the right."""
    tokens = AutoTokenizer.from_pretrained(checkpoints["bert"])(sentences, padding=True, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"]


@pytest.fixture
def folder(checkpoints, tmp_path, request):
    """A dense sentence-transformers folder of the family asked for: mean pooling, unit vectors, a prompt."""
    path = tmp_path / "dense"
    path.mkdir()
    encoder = load_encoder(
        checkpoints[getattr(request, "param", "bert")], pooling="mean", normalize=True, prompt="the "
    )
    save_encoder(encoder, path, stock=True)
    return str(path)


def is_native(model):
    return model in native_forward._packed


def by_torch(model, *args, **kwargs):
    """What PyTorch computes."""
    plain = copy.deepcopy(model)
    plain.native_forward = None
    with torch.no_grad():
        return plain(*args, **kwargs)


def close(x, y):
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=1e-5)


@needs_extension
def test_sentence_transformers_runs_packed_folders_natively(encoder, sentences, tmp_path):
    expected = write_packed(encoder, tmp_path / "packed").encode(sentences)
    model = SentenceTransformer(str(tmp_path / "packed"), device="cpu")
    close(model.encode(sentences), expected)
    assert is_native(model[0].auto_model) == (encoder.model.config.original_model_type in NATIVE_FAMILIES)
    close(model.encode(sentences, batch_size=2, convert_to_tensor=True), expected)
    close(model.encode(sentences[0]), expected[0])


@needs_extension
def test_padding_is_zero_and_the_pooler_is_computed(packed, batch):
    ids, mask = batch
    expected = by_torch(packed, ids, attention_mask=mask)
    found = packed(ids, attention_mask=mask)
    assert is_native(packed)
    close(found.last_hidden_state[mask == 1], expected.last_hidden_state[mask == 1])
    assert (found.last_hidden_state[mask == 0] == 0).all()
    close(found.pooler_output, expected.pooler_output)
    close(packed(ids[:1]).last_hidden_state, by_torch(packed, ids[:1]).last_hidden_state)


def replace(owner, name, value):
    setattr(owner, name, value)


def noisy(module):
    return module.register_forward_hook(lambda module, inputs, output: output * 1.5)


DECLINED = {
    "training": lambda model: model.train(),
    "one module in training": lambda model: model.encoder.layer[1].output.dropout.train(),
    "gradients": lambda model: model.requires_grad_(True),
    "float64": lambda model: model.double(),
    "mixed": lambda model: model.encoder.layer[0].double(),
    "hook": lambda model: noisy(model.encoder.layer[2].output),
    "pre-hook": lambda model: model.encoder.layer[0].register_forward_pre_hook(lambda module, inputs: None),
    "replaced forward": lambda model: replace(model.encoder.layer[1], "forward", lambda hidden, *_: hidden),
    "replaced module": lambda model: replace(model.encoder.layer[1].output, "LayerNorm", nn.Identity()),
    "replaced activation": lambda model: replace(model.encoder.layer[1].intermediate, "activation", nn.ReLU()),
    "unknown activation": lambda model: replace(model.config, "hidden_act", "relu2"),
}


@needs_extension
@pytest.mark.parametrize("change", DECLINED)
def test_what_could_differ_is_left_to_torch(packed, batch, change):
    DECLINED[change](packed)
    assert packed.native_forward(packed, *batch, None) is None


@needs_extension
def test_inputs_that_are_left_to_torch(packed, batch, monkeypatch):
    ids, mask = batch

    def run(ids=ids, mask=mask, types=None):
        return packed.native_forward(packed, ids, mask, types)

    assert run() is not None and run(types=torch.zeros_like(ids)) is not None and run(mask=mask.bool()) is not None
    assert run(types=torch.ones_like(ids)) is None
    holes = mask.clone()
    holes[0, 1] = 0
    empty = mask.clone()
    empty[0] = 0
    assert all(
        run(mask=wrong) is None for wrong in (mask.flip(1), holes, empty, mask[:, None, None, :], mask.to("meta"))
    )
    assert (
        run(ids=ids.float()) is None
        and run(ids=ids[0], mask=mask[0]) is None
        and run(ids=ids[:0], mask=mask[:0]) is None
    )
    assert run(ids=ids + 1000) is None
    with pytest.raises(IndexError):
        packed(ids + 1000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run() is None
    with torch.nn.modules.module.register_module_forward_hook(lambda *_: None):
        assert run() is None
    monkeypatch.setenv("SPARSECSE_KERNELS", "reference")
    assert run() is None


@needs_extension
def test_arguments_that_are_left_to_torch(packed, batch):
    ids, mask = batch
    with torch.inference_mode():
        output = packed(ids, attention_mask=mask, output_hidden_states=True)
        assert len(output.hidden_states) == 4 and (output.last_hidden_state[mask == 0] != 0).any()
        position_ids = torch.arange(ids.shape[1])[None].flip(1)
        moved = packed(ids, attention_mask=mask, position_ids=position_ids).last_hidden_state
    assert not is_native(packed)
    close(moved, by_torch(packed, ids, attention_mask=mask, position_ids=position_ids).last_hidden_state)
    program = torch.export.export(packed, (ids, mask))
    assert "sparsecse" not in str(program.graph) and not is_native(packed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lambda *x: packed(*x).last_hidden_state, (ids, mask), check_trace=False)
    assert not is_native(packed)
    close(traced(ids[:3], mask[:3])[mask[:3] == 1], packed(ids[:3], attention_mask=mask[:3])[0][mask[:3] == 1])


@needs_extension
def test_hooks_and_gates_act(packed, batch):
    ids, mask = batch

    def run():
        with torch.no_grad():
            return packed(ids, attention_mask=mask).last_hidden_state[mask == 1]

    before = run()
    handle = noisy(packed.encoder.layer[2].output)
    close(run(), before * 1.5)
    handle.remove()
    close(run(), before)
    gates = Gates.ones(packed)
    with gated(packed, gates):
        close(run(), before)
    with torch.no_grad():
        gates.neurons[1].zero_()
    with gated(packed, gates):
        assert (run() - before).abs().max() > 1e-3
    seen = []
    packed.register_forward_hook(lambda module, inputs, output: seen.append(output.last_hidden_state))
    run()
    assert len(seen) == 1  # a hook on the model itself has the result either way


def halve(model, how):
    dense = model.encoder.layer[1].output.dense
    weight, half = dense.weight, dense.weight.detach() * 0.5
    if how == "in place":
        with torch.no_grad():
            weight.mul_(0.5)
    elif how == "one value in place":
        with torch.no_grad():
            weight[0, 0] += 1
    elif how == "through a view":
        weight.detach()[0].mul_(0.5)
    elif how == "new data":
        weight.data = half
    elif how == "turned data":
        weight.data = weight.data.as_strided(weight.shape, (1, weight.shape[0]))
    elif how == "new data at the old address":
        weight.data = weight.data.clone()
        weight.data = half
    elif how == "new parameter":
        dense.weight = nn.Parameter(half, requires_grad=False)
    elif how == "new parameter with the old memory":
        dense.weight = nn.Parameter(weight.data, requires_grad=False)
        dense.weight.data.mul_(0.5)
    elif how == "load_state_dict":
        model.load_state_dict({"encoder.layer.1.output.dense.weight": half}, strict=False)
    elif how == "load_state_dict, assigned":
        model.load_state_dict({"encoder.layer.1.output.dense.weight": half}, strict=False, assign=True)
    elif how == "optimizer":
        weight.grad = half
        torch.optim.SGD([weight], lr=1.0).step()
    elif how == "fused optimizer":
        weight.grad = half
        torch.optim.AdamW([weight], lr=0.1, fused=True).step()
    elif how == "word embeddings":  # the native encoder reads them where they lie
        model.embeddings.word_embeddings.weight.data.mul_(0.5)
    elif how == "shared memory":
        model.share_memory()
        weight.mul_(0.5)
    elif how == "through data, told":
        weight.data.mul_(0.5)
        torch.autograd.graph.increment_version(weight)
    elif how == "through data, in training":
        model.requires_grad_(True)
        model(torch.tensor([[2, 5, 3]])).last_hidden_state.sum().backward()
        weight.data.mul_(0.5)
        model.requires_grad_(False)
    else:
        raise AssertionError(how)


@needs_extension
@pytest.mark.parametrize(
    "how",
    [
        "in place",
        "one value in place",
        "through a view",
        "new data",
        "turned data",
        "new data at the old address",
        "new parameter",
        "new parameter with the old memory",
        "load_state_dict",
        "load_state_dict, assigned",
        "optimizer",
        "fused optimizer",
        "word embeddings",
        "shared memory",
        "through data, told",
        "through data, in training",
    ],
)
def test_changed_weights_are_seen(packed, batch, how):
    ids, mask = batch
    real = mask == 1
    before = packed(ids, attention_mask=mask).last_hidden_state[real]
    again = native_forward._packed[packed]
    packed(ids, attention_mask=mask)
    assert native_forward._packed[packed] is again
    halve(packed, how)
    after = packed(ids, attention_mask=mask).last_hidden_state[real]
    assert (after - before).abs().max() > 1e-3 and is_native(packed)
    close(after, by_torch(packed, ids, attention_mask=mask).last_hidden_state[real])


@needs_extension
def test_copies_and_pickles_compute_for_themselves(packed, batch):
    ids, mask = batch
    expected = packed(ids, attention_mask=mask).last_hidden_state
    size = len(pickle.dumps(packed))
    twin = copy.deepcopy(packed)
    assert not is_native(twin)
    halve(twin, "in place")
    assert (twin(ids, attention_mask=mask).last_hidden_state - expected).abs().max() > 1e-3
    close(packed(ids, attention_mask=mask).last_hidden_state, expected)
    again = pickle.loads(pickle.dumps(packed))
    close(again(ids, attention_mask=mask).last_hidden_state, expected)
    assert is_native(again) and len(pickle.dumps(again)) <= size + 100
    count = len(native_forward._packed)
    del twin, again
    assert len(native_forward._packed) < count
    assert "native" not in " ".join(packed.state_dict())


@needs_extension
def test_threads_share_a_model(packed, batch):
    ids, mask = batch
    expected = by_torch(packed, ids, attention_mask=mask).last_hidden_state[mask == 1]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: packed(ids, attention_mask=mask).last_hidden_state, range(20)):
            close(found[mask == 1], expected)


@needs_extension
def test_half_precision_is_native_where_the_processor_has_it(packed, batch):
    ids, mask = batch
    exact = packed(ids, attention_mask=mask).last_hidden_state[mask == 1]
    half = packed.to(torch.bfloat16)
    found = half(ids, attention_mask=mask).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(found[mask == 1].float(), exact, dim=-1).min() > 0.99
    is_run = half.native_forward(half, ids, mask, None) is not None
    assert is_run == native.computes_in("bfloat16")
    assert half.half().native_forward(half, ids, mask, None) is None


def test_an_encoder_of_ours_stays_on_torch(packed, batch, bert):
    ids, mask = batch
    with torch.inference_mode():
        bert(ids, mask)
    assert bert.model.native_forward is None and not is_native(bert.model)


@needs_extension
@pytest.mark.parametrize("folder", NATIVE_FAMILIES, indirect=True)
def test_accelerate_any_family(folder, sentences):
    model = SentenceTransformer(folder, device="cpu")
    token_vectors = model.encode(sentences, output_value="token_embeddings")
    expected = model.encode(sentences)
    prompted = model.encode(sentences, prompt="a ")
    before = model[0].auto_model
    assert accelerate(model, "float32") is model
    ours = model[0].auto_model
    assert ours.native_forward.precision == "float32" and not ours.training
    close(model.encode(sentences), expected)
    assert is_native(ours)
    close(model.encode(sentences, batch_size=3, prompt="a "), prompted)
    assert abs(prompted - expected).max() > 1e-3
    close(model.encode(sentences, convert_to_tensor=True, normalize_embeddings=True), expected)
    for found, wanted in zip(model.encode(sentences, output_value="token_embeddings"), token_vectors, strict=True):
        close(found, wanted)
    assert model.device.type == "cpu" and model.dtype == torch.float32
    assert model.get_embedding_dimension() == 32 and ours.config.name_or_path == before.config.name_or_path
    if ours.config.original_model_type != "modernbert":  # whose matrices for several products are taken apart
        assert {p.data_ptr() for p in ours.parameters()} <= {p.data_ptr() for p in before.parameters()}


@needs_extension
def test_accelerate_chooses_a_precision_and_can_be_called_again(folder, sentences):
    model = SentenceTransformer(folder, device="cpu")
    expected = model.encode(sentences)
    accelerate(model, threads=1)
    forward = model[0].auto_model.native_forward
    assert "the fastest" in forward.reason and forward.threads == 1
    for precision in ("float32", "bfloat16", "int8"):
        if native.computes_in(precision):
            accelerate(model, precision)
            assert model[0].auto_model.native_forward.precision == precision
            assert (model.encode(sentences) * expected).sum(-1).min() > 0.98
            close(model.encode(sentences), Runtime(folder, precision).encode(sentences))


@needs_extension
def test_accelerate_a_packed_folder(bert, sentences, tmp_path):
    expected = write_packed(bert, tmp_path / "packed").encode(sentences)
    model = accelerate(SentenceTransformer(str(tmp_path / "packed"), device="cpu"), "float32")
    close(model.encode(sentences), expected)
    model.save_pretrained(str(tmp_path / "saved"))
    close(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(sentences), expected)


@needs_extension
@pytest.mark.parametrize("folder", NATIVE_FAMILIES, indirect=True)
def test_an_accelerated_model_is_saved_as_it_was(folder, sentences, tmp_path):
    model = SentenceTransformer(folder, device="cpu")
    expected = model.encode(sentences)
    accelerate(model, "float32").save_pretrained(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] in SUPPORTED and "auto_map" not in config
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert type(again[0].auto_model).__module__.startswith("transformers.models.")
    close(again.encode(sentences), expected)


@needs_extension
def test_an_accelerated_model_trains(folder, sentences):
    model = accelerate(SentenceTransformer(folder, device="cpu"), "float32")
    before = model.encode(sentences)
    model.train()
    model(model.preprocess(sentences))["sentence_embedding"][:, 0].sum().backward()
    weight = model[0].auto_model.encoder.layer[0].output.dense.weight
    assert weight.grad.abs().sum() > 0
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = model.encode(sentences)
    assert abs(after - before).max() > 1e-4
    close(after, by_torch_sentences(model, sentences))


def by_torch_sentences(model, sentences):
    plain = copy.deepcopy(model)
    plain[0].auto_model.native_forward = None
    return plain.encode(sentences)


@needs_extension
def test_an_accelerated_model_is_copied_and_pickled(folder, sentences):
    precision = "int8" if native.computes_in("int8") else "float32"
    model = accelerate(SentenceTransformer(folder, device="cpu"), precision)
    expected = model.encode(sentences)
    close(copy.deepcopy(model).encode(sentences), expected)
    again = pickle.loads(pickle.dumps(model))
    assert again[0].auto_model.native_forward.precision == precision
    close(again.encode(sentences), expected)
    file = io.BytesIO()
    torch.save(model, file)
    close(torch.load(io.BytesIO(file.getvalue()), weights_only=False).encode(sentences), expected)


@pytest.mark.slow
@needs_extension
def test_an_accelerated_model_serves_a_pool_of_processes(folder, sentences):
    model = accelerate(SentenceTransformer(folder, device="cpu"), "float32", threads=1)
    expected = model.encode(sentences)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        close(model.encode(sentences, pool=pool, chunk_size=3), expected)
    finally:
        model.stop_multi_process_pool(pool)


@needs_extension
def test_accelerate_refuses_in_one_sentence(folder, bert, tmp_path):
    def load():
        return SentenceTransformer(folder, device="cpu")

    with pytest.raises(InputError, match="`threads` 0"):
        accelerate(load(), threads=0)
    with pytest.raises(InputError, match="not one of auto"):
        accelerate(load(), "float8")
    with pytest.raises(InputError, match="SentenceTransformer that begins with"):
        accelerate(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(InputError, match="on meta"):
        accelerate(load().to("meta"))
    hooked = load()
    noisy(hooked[0].auto_model.encoder.layer[0])
    with pytest.raises(InputError, match=r"forward hooks \(encoder\.layer\.0\)"):
        accelerate(hooked)
    write_packed(bert, tmp_path / "packed")
    packed = SentenceTransformer(str(tmp_path / "packed"), device="cpu")
    with pytest.raises(InputError, match="not one of auto"):
        accelerate(packed, "float8")
    assert packed[0].auto_model.native_forward is not None
    states = load()
    states[0].auto_model.config.output_hidden_states = True
    with pytest.raises(InputError, match="output_hidden_states"):
        accelerate(states)
    decoder = load()
    decoder[0].auto_model.config.is_decoder = True
    with pytest.raises(InputError, match="decoder"):
        accelerate(decoder)
    other = load()
    other[0].auto_model.config.model_type = "gpt2"
    with pytest.raises(InputError, match="'gpt2' model, which sparsecse does not support"):
        accelerate(other)


@pytest.fixture
def without_extension(monkeypatch):
    """As where no compiler was found at install."""
    monkeypatch.setitem(sys.modules, "sparsecse._native", None)
    dispatch.native_extension.cache_clear()
    yield
    monkeypatch.undo()
    dispatch.native_extension.cache_clear()


def test_without_the_extension_torch_computes_and_one_warning_says_so(
    without_extension, folder, bert, sentences, checkpoints, tmp_path
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = write_packed(bert, tmp_path / "packed").encode(sentences)
        model = SentenceTransformer(str(tmp_path / "packed"), device="cpu")
        dense = SentenceTransformer(folder, device="cpu")
        vectors = dense.encode(sentences)
        close(model.encode(sentences), expected)
        close(model.encode(sentences, batch_size=2), expected)
        close(accelerate(dense).encode(sentences), vectors)
        assert type(dense[0].auto_model).__name__ == "BertModel"
        stock = AutoModel.from_pretrained(checkpoints["bert"], attn_implementation="sparsecse").eval()
        stock(torch.arange(5, 9)[None])
    (warning,) = [str(w.message) for w in caught if "sparsecse" in str(w.message)]
    assert "its compiled kernels cannot be loaded" in warning
    with pytest.raises(InputError, match="`precision` int8 needs the native encoder"):
        accelerate(dense, "int8")


@pytest.mark.slow
@needs_extension
def test_the_real_minilm(minilm):
    from sparsecse.datasets import load_sentences

    sentences = load_sentences("demo")[:64]
    model = SentenceTransformer(str(minilm), device="cpu")
    expected = model.encode(sentences)
    close(accelerate(model, "float32").encode(sentences), expected)
    assert (accelerate(model).encode(sentences) * expected).sum(-1).mean() > 0.998
    attending = SentenceTransformer(str(minilm), device="cpu", model_kwargs={"attn_implementation": "sparsecse"})
    close(attending.encode(sentences), expected)


def load_both(folder):
    theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ours = AutoModel.from_pretrained(folder, attn_implementation="sparsecse").eval()
    assert ours.config._attn_implementation == "sparsecse"
    return theirs, ours


@pytest.mark.parametrize("family", WITH_INTERFACE)
def test_attn_implementation_on_padded_sentences(checkpoints, batch, family):
    theirs, ours = (model.double() for model in load_both(checkpoints[family]))
    ids, mask = batch
    for side in (mask, mask.flip(1)):
        options = {"attention_mask": side, "position_ids": torch.arange(1, ids.shape[1] + 1).expand_as(ids)}
        expected = theirs(ids, **options).last_hidden_state[side == 1]
        found = ours(ids, **options).last_hidden_state[side == 1]
        close(found.detach(), expected.detach())
        for model, output in ((theirs, expected), (ours, found)):
            model.zero_grad()
            (output * torch.arange(output.shape[1])).square().sum().backward()
        for (name, x), y in zip(theirs.named_parameters(), ours.parameters(), strict=True):
            if x.grad is not None:
                torch.testing.assert_close(y.grad, x.grad, atol=1e-8, rtol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
    close(ours(ids[:1]).last_hidden_state.detach(), theirs(ids[:1]).last_hidden_state.detach())


@pytest.mark.parametrize("family", WITH_INTERFACE)
def test_attn_implementation_on_flattened_sentences(checkpoints, batch, family):
    theirs, ours = load_both(checkpoints[family])
    ids, mask = batch
    first = 2 if "roberta" in family else 0
    options = {"attention_mask": mask, "position_ids": first + torch.arange(ids.shape[1]).expand_as(ids)}
    expected = theirs(ids, **options).last_hidden_state[mask == 1].detach()
    rows = [{"input_ids": row[real == 1].tolist()} for row, real in zip(ids, mask, strict=True)]
    flat = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_position_ids=True)(rows)
    flat.pop("labels")
    flat["position_ids"] = flat["position_ids"] + first
    close(ours(**flat).last_hidden_state[0].detach(), expected)
    if family != "distilbert":  # which does not hand position_ids on to its layers
        found = ours(flat["input_ids"], position_ids=flat["position_ids"]).last_hidden_state
        close(found[0].detach(), expected)


def test_attn_implementation_drops_out_by_torchs_generator(checkpoints, batch):
    _, ours = load_both(checkpoints["bert"])
    ids, mask = batch
    for module in ours.modules():
        if isinstance(module, nn.Dropout) and not hasattr(module, "is_attention"):
            module.p = 0.0
    ours.train()
    exact = ours(ids, attention_mask=mask).last_hidden_state
    for layer in ours.encoder.layer:
        layer.attention.self.dropout.p = 0.3
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(ours(ids, attention_mask=mask).last_hidden_state)
    assert found[0].equal(found[1]) and not found[0].equal(found[2]) and not found[0].equal(exact)


def test_attn_implementation_refuses_what_it_does_not_have(checkpoints, batch):
    ids, mask = batch
    mpnet = AutoModel.from_pretrained(checkpoints["mpnet"], attn_implementation="sparsecse")
    with pytest.raises(InputError, match="MPNetModel computes its attention itself"):
        mpnet(ids, attention_mask=mask)
    modern = AutoModel.from_pretrained(checkpoints["modernbert"], attn_implementation="sparsecse")
    with pytest.raises(InputError, match="does not have sliding_window"):
        modern(ids, attention_mask=mask)
    decoder = AutoModel.from_pretrained(checkpoints["qwen3"], attn_implementation="sparsecse")
    with pytest.raises(InputError, match="causal attention"):
        decoder(ids, attention_mask=mask)
    _, ours = load_both(checkpoints["bert"])
    with pytest.raises(InputError, match="a mask that is not"):
        ours(ids, attention_mask=mask[:, None, None, :].float())
