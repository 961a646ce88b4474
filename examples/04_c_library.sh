#!/bin/sh
# From an ONNX file to a C program: the artifact's header and library are all that the program needs.
#   examples/04_c_library.sh MODEL.onnx INPUT.npy
set -eu
model=$1 input=$2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sparsecc compile "$model" -o "$work/model.scc" --pattern 4x1 --sparsity 0.8 --quiet
cc -O2 -I "$work/model.scc" "$here/c/run_model.c" "$work/model.scc/libmodel.a" -lm -lpthread -o "$work/run_model"

# The program reads raw numbers: an .npy file without its header.
python3 - "$input" "$work/input.bin" <<'PYTHON'
import sys
import numpy
numpy.load(sys.argv[1], allow_pickle=False).tofile(sys.argv[2])
PYTHON
"$work/run_model" "$work/model.scc/weights.bin" 1 "$work/input.bin"
