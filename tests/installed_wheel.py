"""Whether an installed wheel computes: with its own kernels where its platform has them, and what PyTorch computes.

A script, for environments without pytest: `python installed_wheel.py`, anywhere outside the source tree.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

NATIVE = sys.platform != "win32"


def check() -> str:
    import torch
    from transformers import BertConfig, BertModel

    import sparsecse
    from sparsecse import Runtime, load_encoder
    from sparsecse.kernels import dispatch, reference, uniformity

    assert (dispatch.native_extension() is not None) == NATIVE, "the compiled kernels are missing, or not wanted here"
    torch.manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(50, 24), dim=1)
    torch.testing.assert_close(uniformity(x), reference.uniformity(x.double(), 2.0).float(), atol=1e-5, rtol=0)
    with tempfile.TemporaryDirectory() as folder:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat"]
        (Path(folder) / "vocab.txt").write_text("\n".join(words) + "\n")
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
        encoder = load_encoder(folder, pooling="mean")
        sentences = ["the cat sat", "the dog", "a bird"]
        ours, theirs = Runtime(encoder, "float32"), encoder.encode(sentences, normalize_embeddings=False)
        found = torch.as_tensor(ours.encode(sentences, normalize_embeddings=False))
    torch.testing.assert_close(found, torch.as_tensor(theirs), atol=1e-5, rtol=1e-5)
    doctor = subprocess.run([sys.executable, "-m", "sparsecse", "doctor"], capture_output=True, text=True, check=True)
    assert ("native" in doctor.stdout) == NATIVE and (NATIVE or "to mend" in doctor.stdout), doctor.stdout
    level = dispatch.native_extension().cpu_level_names()[dispatch.cpu_level()] if NATIVE else "PyTorch"
    return f"sparsecse {sparsecse.__version__} in {Path(sparsecse.__file__).parent}: {level}"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.pop(0)  # this script's folder
    print(check())
