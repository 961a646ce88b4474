"""What `make one-shot` measures: calibration data, and a score on data that no calibration sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from benchmarks.accuracy_images import calibration_pieces
from benchmarks.accuracy_minilm import FewDocumentsTask
from benchmarks.accuracy_photographs import RandomViewsTask
from benchmarks.accuracy_smollm2 import TEST_DOCUMENTS, WINDOW, SmolLM2Task, token_ids
from benchmarks.accuracy_texts import news
from sparsecc.passes.criteria import Calibration

CALIBRATION_WINDOWS = 24


class OneShotTask(ABC):
    """One network.

    Class attributes:
        title: of its table.
        metric: what `score` is.
        about: a sentence on the data.
        others: titles of other figures that get a table of their own, by their names in the results.
    """

    title: ClassVar[str]
    metric: ClassVar[str]
    about: ClassVar[str]
    others: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def model(self) -> ir.Model:
        """The dense network."""

    @abstractmethod
    def calibration(self) -> Calibration:
        """With seed 0."""

    def texts(self) -> Calibration:
        """All that there is to train on without labels; only where networks are distilled."""
        raise NotImplementedError(self.title)

    @abstractmethod
    def evaluate(self, model: ir.Model) -> dict[str, float]:
        """The score and other figures, through ONNX Runtime."""


class SmolLM2(OneShotTask):
    """Perplexity of news."""

    title = "SmolLM2-135M"
    metric = "perplexity"
    about = (
        "SmolLM2-135M-Instruct, de-quantised from 4 bits; zeros in all 210 linear layers of its 30 blocks, "
        "none in the embedding. Calibration: 24 windows of 512 tokens of news (seed 0). Perplexity of 12 "
        "windows of 512 tokens of other documents; lower is better."
    )

    def __init__(self) -> None:
        self._task = SmolLM2Task()

    def model(self) -> ir.Model:
        return self._task.model()

    def calibration(self) -> Calibration:
        ids = token_ids("\n".join(news()[TEST_DOCUMENTS:]))
        count = len(ids) // (WINDOW + 1) - 1
        starts = np.random.default_rng(0).choice(count, CALIBRATION_WINDOWS, replace=False)
        return Calibration([{"input_ids": ids[number * (WINDOW + 1) :][:WINDOW][None]} for number in starts])

    def texts(self) -> Calibration:
        ids = token_ids("\n".join(news()[TEST_DOCUMENTS:]))
        count = len(ids) // WINDOW
        return Calibration([{"input_ids": part[None]} for part in ids[: count * WINDOW].reshape(-1, WINDOW)])

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        return self._task.evaluate(model)


class MiniLM(OneShotTask):
    """Accuracy of a linear probe."""

    title = "MiniLM"
    metric = "R8 accuracy, %"
    about = (
        "All-MiniLM-L6-v2 with a linear classifier fitted to the dense embeddings of 2,000 "
        "documents of Reuters R8; accuracy on 1,024 test documents, cut to 64 tokens. Calibration: 256 other "
        "training documents (seed 0), their classes for gradients only; higher is better."
    )
    others: ClassVar[Mapping[str, str]] = {
        "similarity": "Correlation of the embeddings' cosines with how alike people found 50 other documents "
        "(Lee corpus, cut to 64 tokens)"
    }

    def __init__(self) -> None:
        self._task = FewDocumentsTask()

    def model(self) -> ir.Model:
        return self._task.model()

    def calibration(self) -> Calibration:
        return self._task.calibration("id", 0)

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        return {**self._task.evaluate(model), "similarity": self._task.similarity(model)}


class EfficientNet(OneShotTask):
    """Agreement with the dense network."""

    title = "EfficientNet-lite0"
    metric = "agreement with dense, %"
    about = (
        "EfficientNet-lite0 with its ImageNet weights; depthwise convolutions stay dense. Share of 400 views "
        "(20 random cut-outs of each of 20 labelled photographs, seed 1) that get the class that the dense "
        "network gives. Calibration: 1,024 random cut-outs of some 280 other pictures, of which half have a "
        "thing in front and 30 % a piece of another pasted in (seed 0); higher is better."
    )

    def __init__(self) -> None:
        self._task = RandomViewsTask()

    def model(self) -> ir.Model:
        return self._task.model()

    def calibration(self) -> Calibration:
        name = self.model().graph.inputs[0].name or ""
        return Calibration([{name: part} for part in np.split(calibration_pieces(1024, 0), 64)])

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        return self._task.agreement(model)


TASKS: dict[str, type[OneShotTask]] = {
    "smollm2-135m": SmolLM2,
    "minilm": MiniLM,
    "efficientnet-lite0": EfficientNet,
}
