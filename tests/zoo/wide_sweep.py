"""python -m tests.zoo.wide_sweep FOLDER [TYPE ...]: capture every model type, each in a process of its own.

Writes FOLDER/TYPE.onnx with TYPE.npz, and one line a type to FOLDER/results.jsonl; types listed there are
not run again unless they are named.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 120
BYTES = 10 * 2**30
TOLERANCE = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("types", nargs="*")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    for heavy in ("onnxscript", "transformers"):  # once here instead of once in every child
        import_module(heavy)
    import torch

    from tests.zoo.wide import model_types

    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    results = args.folder / "results.jsonl"
    done = (
        {json.loads(line)["type"] for line in results.read_text().splitlines()} if results.exists() else set()
    )
    for model_type in args.types or [name for name in model_types() if name not in done]:
        started = time.monotonic()
        row = in_own_process(model_type, args.folder)
        row = {"type": model_type, **row, "seconds": round(time.monotonic() - started, 1)}
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row["type"], row["status"], row.get("reason", ""), flush=True)
    return 0


def in_own_process(model_type: str, folder: Path) -> dict[str, Any]:
    """The result of `capture_type`, or why its process gave none."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(model_type, folder, sender))
    process.start()
    sender.close()
    try:
        row: dict[str, Any] = receiver.recv() if receiver.poll(SECONDS) else {"status": "time limit"}
    except EOFError:
        process.join()
        row = {"status": "process died", "reason": f"exit code {process.exitcode}"}
    process.kill()
    process.join()
    return row


def _child(model_type: str, folder: Path, sender: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sender.send(capture_type(model_type, folder))


def capture_type(model_type: str, folder: Path) -> dict[str, Any]:
    """Build, capture, save, and compare ONNX Runtime with PyTorch.

    Returns:
        status (not built, not exported, not run, different, exported), reason, class, nodes, parameters, and
        the largest difference relative to the largest output.
    """
    import onnx_ir as ir
    import torch

    from sparsecc.ir import evaluate
    from tests.zoo.wide import build

    try:
        built = build(model_type)
        sample = built.sample
        module = sample.build_module()
        with torch.no_grad():
            expected = module(**sample.tensors())
    except Exception as error:
        return {"status": "not built", "reason": _reason(error)}
    row: dict[str, Any] = {
        "class": built.model_class,
        "inputs": list(sample.inputs),
        "outputs": list(built.fields),
    }
    if not all(torch.isfinite(tensor).all() for tensor in expected):
        return {**row, "status": "not built", "reason": "outputs are not finite"}
    try:
        model = sample.build()
    except Exception as error:
        return {**row, "status": "not exported", "reason": _reason(error)}
    sizes = [v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None]
    row |= {"nodes": len(model.graph), "parameters": sum(sizes)}
    ir.save(model, folder / f"{model_type}.onnx")
    arrays: dict[str, Any] = {**sample.draw(0)}
    np.savez(folder / f"{model_type}.npz", **arrays)
    try:
        found = list(evaluate(model, arrays).values())
    except Exception as error:
        return {**row, "status": "not run", "reason": _reason(error)}
    worst = max(
        float(np.abs(array - tensor.numpy()).max() / (np.abs(tensor.numpy()).max() + 1e-9))
        for array, tensor in zip(found, expected, strict=True)
    )
    return {**row, "status": "exported" if worst < TOLERANCE else "different", "difference": worst}


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:300]}"


if __name__ == "__main__":
    raise SystemExit(main())
