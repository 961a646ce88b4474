"""Writes the C side of an artifact from a plan: the public header, the driver and the list of exports.

The step `spmm(arena + 64, weights + 0; 8)` becomes a static function
`sparsecc_step_0(frame, begin, end) { return spmm(A(64), W(0), 8, begin, end); }` and a row of a table; all
that does not depend on the model is C in `runtime/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsecc.errors import LoweringError, UsageError
from sparsecc.targets.features import rows_of
from sparsecc.targets.plan import SLACK, Plan, Ref, Step, TensorSpec

RUNTIME = Path(__file__).parent / "runtime"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_INT32 = range(-(2**31), 2**31)
# Typed arrays of JavaScript; halves come as their bits, booleans as bytes.
_JAVASCRIPT = {
    "float32": "Float32Array", "float64": "Float64Array", "float16": "Uint16Array", "bool": "Uint8Array",
    "int8": "Int8Array", "int16": "Int16Array", "int32": "Int32Array", "int64": "BigInt64Array",
    "uint8": "Uint8Array", "uint16": "Uint16Array", "uint32": "Uint32Array", "uint64": "BigUint64Array",
}  # fmt: skip

# Names of public functions, behind "PREFIX_".
_FUNCTIONS = ("create", "run", "profile", "destroy", "error_string", "step_label", "input", "output")


def include_folders(plan: Plan) -> list[Path]:
    """Where the headers of the driver lie: those for all machines, then those of the plan's platform."""
    return [RUNTIME, *(RUNTIME / folder for folder in plan.platform.runtime)]


@dataclass(frozen=True)
class DriverSources:
    """Generated text.

    Attributes:
        header: the public `model.h`.
        driver: one C11 translation unit; includes `model.h` and the headers in `include_folders`.
        exports: the public symbols, all that the libraries may show.
        extras: further files of the artifact, by name: programs and bindings.
    """

    header: str
    driver: str
    exports: tuple[str, ...]
    extras: dict[str, str]


def generate(plan: Plan, *, embed_sha256: str | None = None) -> DriverSources:
    """Write the header and the driver of `plan`.

    Args:
        plan: what to run; it is checked first.
        embed_sha256: SHA-256 of `weights.bin`, to embed that file of the compiler's working folder in the
            library; None: the weights come at run time. Compiler caches do not see the file, but this.

    Raises:
        UsageError: the plan's name cannot be a C prefix.
        LoweringError: the plan contradicts itself (a step outside its arena, a wrong argument count, ...).
    """
    _check(plan)
    return DriverSources(
        header=_header(plan, embedded=embed_sha256 is not None),
        driver=_driver(plan, embed_sha256),
        exports=tuple(f"{plan.name}_{function}" for function in _FUNCTIONS),
        extras={name: _extra(plan, name, embedded=embed_sha256 is not None) for name in plan.platform.extras},
    )


def total_arena_bytes(plan: Plan) -> int:
    """Bytes of one handle's arena: the plan's, rounded up to 64, with the slack on both sides."""
    return -(-plan.arena_bytes // 64) * 64 + 2 * SLACK


# --- checks ---------------------------------------------------------------------------------------------


def _check(plan: Plan) -> None:
    if not _PREFIX.fullmatch(plan.name) or plan.name.lower().startswith("sparsecc"):
        raise UsageError(
            f"the name {plan.name!r} cannot prefix C symbols: expected a letter, then letters, digits or "
            "underscores, and not sparsecc"
        )
    public = {f"{plan.name}_{function}" for function in _FUNCTIONS}
    for symbol in plan.symbols:
        if not _IDENTIFIER.fullmatch(symbol) or symbol in public or symbol.startswith("sparsecc_"):
            raise LoweringError(f"kernel symbol {symbol!r} is not a C name or is one that the driver uses")
    for symbol, other in plan.alternatives.items():
        if symbol not in plan.symbols or plan.symbols[symbol] != plan.symbols.get(other):
            raise LoweringError(f"kernel {other!r} cannot stand in for {symbol!r}: their parameters differ")
    for spec in (*plan.inputs, *plan.outputs):
        if any(size < 0 for size in spec.shape):
            raise LoweringError(f"tensor {spec.name!r} has the shape {list(spec.shape)}, which is not static")
    for step in plan.steps:
        _check_step(plan, step)


def _check_step(plan: Plan, step: Step) -> None:
    where = f"step {step.label!r} ({step.symbol})"
    expected = plan.symbols.get(step.symbol)
    found = (len(step.pointers), len(step.scalars))
    if expected is None:
        raise LoweringError(f"{where} calls a kernel that the plan does not have")
    if expected != found:
        raise LoweringError(f"{where} passes {found} (pointers, scalars) where the kernel takes {expected}")
    if step.extent < 0 or any(value not in _INT32 for value in (*step.scalars, step.extent)):
        raise LoweringError(f"{where} has a negative extent or a scalar beyond 32 bits")
    for ref in step.pointers:
        limit = _limit(plan, ref)
        if limit is None or not 0 <= ref.offset <= limit:
            raise LoweringError(
                f"{where} points to byte {ref.offset} of {ref.space} {ref.index}, "
                + ("which does not exist" if limit is None else f"which has {limit} bytes")
            )


def _limit(plan: Plan, ref: Ref) -> int | None:
    """Bytes in the space of `ref`, or None where there is no such space."""
    if ref.space in ("arena", "weights"):
        if ref.index != 0:
            return None
        return plan.arena_bytes if ref.space == "arena" else plan.weights.nbytes
    tensors = plan.inputs if ref.space == "input" else plan.outputs
    return tensors[ref.index].nbytes if 0 <= ref.index < len(tensors) else None


# --- text -----------------------------------------------------------------------------------------------


def _string(text: str) -> str:
    """A C string literal of the UTF-8 bytes of `text`; octal escapes end after three digits."""
    out: list[str] = []
    for byte in text.encode():
        char = chr(byte)
        plain = 32 <= byte < 127 and char not in '"\\?'
        out.append(char if plain else f"\\{byte:03o}")
    return '"' + "".join(out) + '"'


def _comment(text: str) -> str:
    """`text` on one line, without what opens or closes a C comment."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean.replace("*/", "* /").replace("/*", "/ *")


def _rows(lines: list[str], filler: str) -> str:
    """Rows of a C initializer; C11 has no empty arrays, so an empty table gets one row that nobody reads."""
    return "\n".join(f"    {line}," for line in lines or [filler])


def _spec_text(spec: TensorSpec) -> str:
    return _comment(f'"{spec.name}": {spec.dtype} [{", ".join(map(str, spec.shape))}]')


def _shape_text(spec: TensorSpec) -> str:
    return "{" + ", ".join(map(str, spec.shape or (1,))) + "}"


def _tensor_constants(upper: str, role: str, specs: tuple[TensorSpec, ...]) -> str:
    out: list[str] = []
    for index, spec in enumerate(specs):
        name = f"{upper}_{role.upper()}_{index}"
        out += [
            f"/* {role} {index}, {_spec_text(spec)} */",
            f"#define {name}_NAME {_string(spec.name)}",
            f"#define {name}_TYPE {_string(spec.dtype)}",
            f"#define {name}_RANK {len(spec.shape)}",
            f"#define {name}_SHAPE {_shape_text(spec)}",
            f"#define {name}_BYTES {spec.nbytes}",
        ]
    return "\n".join(out)


def _header(plan: Plan, *, embedded: bool) -> str:
    upper = plan.name.upper()
    constants = [
        _tensor_constants(upper, "input", plan.inputs),
        _tensor_constants(upper, "output", plan.outputs),
    ]
    values = {
        "CONSTANTS": "\n".join(part for part in constants if part),
        "INPUTS": str(len(plan.inputs)),
        "OUTPUTS": str(len(plan.outputs)),
        "STEPS": str(len(plan.steps)),
        "ARENA_BYTES": str(total_arena_bytes(plan)),
        "WEIGHTS_BYTES": str(plan.weights.nbytes),
        "EMBEDDED": str(int(embedded)),
        "UPPER": upper,
        "PREFIX": plan.name,
    }
    return _filled("model.h", values)


def rpc_sources(plan: Plan | None = None) -> dict[str, str]:
    """Texts by file name of a library for a TVM RPC server, which times the plan or tells the processor."""
    name = "rpc_cpu.c" if plan is None else "rpc_profile.c"
    values = {} if plan is None else {"UPPER": plan.name.upper(), "PREFIX": plan.name}
    return {file: _filled(file, values) for file in (name, "rpc_any.h")}


def _filled(name: str, values: Mapping[str, str]) -> str:
    """The template of a file with its `@NAMES@` replaced."""
    stem, dot, suffix = name.partition(".")
    text = (RUNTIME / f"{stem}.template{dot}{suffix}").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)


def _extra(plan: Plan, name: str, *, embedded: bool) -> str:
    values = {
        "UPPER": plan.name.upper(),
        "PREFIX": plan.name,
        "INPUTS": _tensors_json(plan.inputs),
        "OUTPUTS": _tensors_json(plan.outputs),
        "INPUT_TYPES": _typescript(plan.inputs),
        "OUTPUT_TYPES": _typescript(plan.outputs),
        "WEIGHTS_BYTES": str(plan.weights.nbytes),
        "EMBEDDED": str(embedded).lower(),
    }
    return _filled(name, values)


def _tensors_json(specs: tuple[TensorSpec, ...]) -> str:
    rows = [{"name": s.name, "type": s.dtype, "shape": s.shape, "bytes": s.nbytes} for s in specs]
    return json.dumps(rows, indent=4)


def _typescript(specs: tuple[TensorSpec, ...]) -> str:
    """Members of an interface."""
    return "\n".join(f"    {json.dumps(s.name)}: {_JAVASCRIPT[s.dtype]}; // {list(s.shape)}" for s in specs)


# --- driver ---------------------------------------------------------------------------------------------


def _pointer(ref: Ref) -> str:
    match ref.space:
        case "arena":
            return f"A({ref.offset})"
        case "weights":
            return f"W({ref.offset})"
        case "input":
            return f"I({ref.index}, {ref.offset})"
        case "output":
            return f"O({ref.index}, {ref.offset})"


def _integer(value: int) -> str:
    """An int32 constant; C has no negative literals, so the least one needs a detour."""
    return "(-2147483647 - 1)" if value == _INT32.start else str(value)


def _step_function(plan: Plan, index: int, step: Step) -> str:
    arguments = [*map(_pointer, step.pointers), *map(_integer, step.scalars), "begin", "end"]
    frame = "const sparsecc_frame *const f = frame;" if step.pointers else "(void)frame;"
    other = plan.alternatives.get(step.symbol)
    called = step.symbol if other is None else f"(f->optional ? {step.symbol} : {other})"
    return (
        f"/* {_comment(step.label)}: {_comment(step.kind)} */\n"
        f"static int32_t sparsecc_step_{index}(const void *frame, int32_t begin, int32_t end) {{\n"
        f"    {frame}\n"
        f"    return {called}({', '.join(arguments)});\n"
        "}"
    )


def _prototype(symbol: str, pointers: int, scalars: int) -> str:
    return f"int32_t {symbol}({', '.join(['void *'] * pointers + ['int32_t'] * (scalars + 2))});"


def _embedding(sha256: str | None, form: str) -> str:
    """What puts the weights file into the read-only data: assembly for ELF, C23's #embed elsewhere."""
    if sha256 is None:
        return "#define EMBEDDED NULL"
    symbol = f"sparsecc_weights_{sha256}"
    if form not in ("elf", "bionic"):
        return f"""static const _Alignas(64) unsigned char {symbol}[] = {{
#embed "weights.bin"
}};
#define EMBEDDED {symbol}"""
    return f"""__asm__(
    ".pushsection .rodata\\n"
    ".balign 64\\n"
    ".type {symbol}, %object\\n"
    "{symbol}:\\n"
    ".incbin \\"weights.bin\\"\\n"
    ".size {symbol}, . - {symbol}\\n"
    ".popsection\\n");
extern const unsigned char {symbol}[] __attribute__((visibility("hidden")));
#define EMBEDDED {symbol}"""


def _driver(plan: Plan, embed_sha256: str | None) -> str:
    cpu, state = rows_of(plan.platform.runtime, plan.features)
    optional, optional_state = rows_of(plan.platform.runtime, plan.optional)
    tensors = {
        role: _rows([f"{{{spec.nbytes}u, {np.dtype(spec.dtype).itemsize}u}}" for spec in specs], "{0u, 1u}")
        for role, specs in (("inputs", plan.inputs), ("outputs", plan.outputs))
    }
    values = {
        "EMBEDDING": _embedding(embed_sha256, plan.platform.form),
        "PROTOTYPES": "\n".join(_prototype(symbol, *plan.symbols[symbol]) for symbol in sorted(plan.symbols)),
        "STEP_FUNCTIONS": "\n\n".join(_step_function(plan, i, step) for i, step in enumerate(plan.steps)),
        "STEP_ROWS": _rows(
            [f"{{sparsecc_step_{i}, {s.extent}, {_string(s.label)}}}" for i, s in enumerate(plan.steps)],
            "{NULL, 0, NULL}",
        ),
        "INPUT_ROWS": tensors["inputs"],
        "OUTPUT_ROWS": tensors["outputs"],
        "INPUT_INFO": _info(plan.inputs),
        "OUTPUT_INFO": _info(plan.outputs),
        "CPU_ROWS": _bits(cpu),
        "CPU_COUNT": str(len(cpu)),
        "CPU_STATE": f"{state:#x}",
        "OPTIONAL_ROWS": _bits(optional),
        "OPTIONAL_COUNT": str(len(optional)),
        "OPTIONAL_STATE": f"{optional_state:#x}",
        "SLACK": str(SLACK),
        "UPPER": plan.name.upper(),
        "PREFIX": plan.name,
    }
    return _filled("driver.c", values)


def _bits(rows: list[tuple[int, ...]]) -> str:
    """What the platform's CPU check reads."""
    return _rows([f"{{{', '.join(map(str, row))}}}" for row in rows], "{0}")


def _info(specs: tuple[TensorSpec, ...]) -> str:
    """Rows of public tensor descriptions; a shape is a compound constant of static storage."""
    rows: list[str] = []
    for spec in specs:
        shape = f"{len(spec.shape)}, (const int64_t[]){_shape_text(spec)}"
        rows.append(f"{{{_string(spec.name)}, {_string(spec.dtype)}, {shape}, {spec.nbytes}u}}")
    return _rows(rows, '{"", "", 0, NULL, 0}')
