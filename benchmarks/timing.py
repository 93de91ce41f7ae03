"""What several of these scripts time with: contenders in turn, and the products that set the pace of the machine."""

import time
from collections.abc import Callable, Mapping

import torch


def best_times(contenders: Mapping[str, Callable[[], object]], rounds: int, spell: float) -> dict[str, float]:
    """Seconds of the best call of each, in turn, round after round.

    spell: seconds that a contender gets in a round at least; short calls then get several tries, so that all contenders
    see the machine for about as long.
    """
    best = dict.fromkeys(contenders, float("inf"))
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            until = time.perf_counter() + spell
            while True:
                start = time.perf_counter()
                call()
                stop = time.perf_counter()
                best[name] = min(best[name], stop - start)
                if stop > until:
                    break
    return best


def prepacked_linear(tokens: int, outputs: int, inputs: int, dtype: torch.dtype) -> Callable[[], object]:
    """oneDNN's product of [tokens, inputs] with a weight [outputs, inputs] in its own layout, ready to be called."""
    x, weight = torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, tokens)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
