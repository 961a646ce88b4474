"""The JNI library and the Kotlin class of Android artifacts, under Java with this machine's library."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulators import compiled
from machine_networks import close
from networks import Network
from stepping import reference

JAVA = """
package sparsecc.model;

import java.nio.*;
import java.nio.channels.FileChannel;
import java.nio.file.*;

public class Model {
    static { System.loadLibrary("model_jni"); }
    private static native long create(String weights, int threads);
    private static native void run(long handle, ByteBuffer[] inputs, ByteBuffer[] outputs);
    private static native void destroy(long handle);
    private static native String nameOf(boolean output, int index);
    private static native String typeOf(boolean output, int index);
    private static native long[] shapeOf(boolean output, int index);
    private static native long bytesOf(boolean output, int index);

    static ByteBuffer direct(long bytes) {
        return ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.nativeOrder());
    }

    public static void main(String[] args) throws Exception {
        System.out.println(nameOf(false, 0) + " " + typeOf(false, 0) + " "
            + java.util.Arrays.toString(shapeOf(false, 0)) + " " + nameOf(false, 1) + " " + bytesOf(true, 1));
        try {
            create("/nowhere/weights.bin", 1);
        } catch (IllegalStateException error) {
            System.out.println(error.getMessage());
        }
        long handle = create(args[0], 2);
        ByteBuffer in = direct(bytesOf(false, 0)), out = direct(bytesOf(true, 0));
        in.put(Files.readAllBytes(Path.of(args[1]))).rewind();
        try {
            run(handle, new ByteBuffer[] {direct(8)}, new ByteBuffer[] {out});
        } catch (IllegalArgumentException error) {
            System.out.println("small: " + error.getMessage());
        }
        try {
            run(handle, new ByteBuffer[] {}, new ByteBuffer[] {out});
        } catch (IllegalArgumentException error) {
            System.out.println(error.getMessage());
        }
        run(handle, new ByteBuffer[] {in}, new ByteBuffer[] {out});
        try (FileChannel file = FileChannel.open(Path.of(args[2]), StandardOpenOption.CREATE,
                StandardOpenOption.WRITE)) {
            file.write(out);
        }
        destroy(handle);
    }
}
"""
KOTLIN = {
    "Long": "J", "Int": "I", "Boolean": "Z", "String?": "Ljava/lang/String;", "LongArray?": "[J",
    "Array<ByteBuffer>": "[Ljava/nio/ByteBuffer;", "": "V",
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Network:
    """A sparse and a dense layer."""
    net = Network()
    net.output(net.conv(net.input(1, 8, 9, 9), 8, 16, (3, 3), pads=[1] * 4, pattern="4x1 80"))
    return net


@pytest.fixture(scope="module")
def android(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(network.proto(), "arm64-android", tmp_path_factory.mktemp("android")).path


def test_kotlin_declares_what_the_library_registers(android: Path) -> None:
    source = (android / "Model.kt").read_text(encoding="utf-8")
    declared: dict[str, str] = {}
    for name, given, result in re.findall(r"external fun (\w+)\((.*?)\)(?:: (\S+))?\n", source):
        types = [text.split(": ")[1] for text in given.split(", ")]
        declared[name] = f"({''.join(KOTLIN[one] for one in types)}){KOTLIN[result]}"
    text = (android / "model_jni.c").read_text(encoding="utf-8")
    assert dict(re.findall(r'\{"(\w+)", "(\S+)", \(void', text)) == declared != {}
    assert "package sparsecc.model\n" in source and 'FindClass(env, "sparsecc/model/Model")' in text


@pytest.mark.skipif(
    not all(map(shutil.which, ("cmake", "javac", "java"))),
    reason="cmake or a JDK (openjdk-17-jdk-headless) is not installed",
)
def test_the_library_runs_under_java(android: Path, network: Network, tmp_path: Path) -> None:
    proto = network.proto()
    here = compiled(proto, "x86-64-v3", tmp_path).path
    folder = tmp_path / "app"
    folder.mkdir()
    for name in ("model_jni.c", "CMakeLists.txt", "model.h"):
        shutil.copy(android / name, folder)
    shutil.copy(here / "libmodel.a", folder)
    java = folder / "sparsecc" / "model" / "Model.java"
    java.parent.mkdir(parents=True)
    java.write_text(JAVA, encoding="utf-8")
    (tmp_path / "input").write_bytes(network.feeds["x0"].tobytes())

    home = Path(shutil.which("javac") or "").resolve().parents[1]

    def call(*words: object) -> str:
        done = subprocess.run(
            [str(word) for word in words], check=False, capture_output=True, text=True,
            env={**os.environ, "JAVA_HOME": str(home)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    call("cmake", "-S", folder, "-B", folder / "build", "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror")
    call("cmake", "--build", folder / "build")
    call("javac", "-d", folder / "classes", java)
    words = (f"-Djava.library.path={folder / 'build'}", "-Xcheck:jni", "-cp", folder / "classes")
    files = (here / "weights.bin", tmp_path / "input", tmp_path / "output")
    printed = call("java", *words, "sparsecc.model.Model", *files)
    (expected,) = reference(proto, network.feeds)
    lines = printed.splitlines()
    assert lines[0] == "x0 float32 [1, 8, 9, 9] null -1"
    assert "weights" in lines[1]
    assert lines[2:] == ["small: x0", "another number of buffers than the network has"]
    found = np.fromfile(tmp_path / "output", np.float32).reshape(expected.shape)
    close({"y": found}, [expected])
