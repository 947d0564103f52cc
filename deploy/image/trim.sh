#!/bin/sh
# Take out of a site-packages folder what a server never imports; the tests of the image show that
# nothing else is missing.
set -eu
cd "$1"
# Of onnxruntime: conversion, quantization and training scripts, and the library for C, which the
# one for Python holds a second time.
rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools onnxruntime/datasets \
    onnxruntime/capi/libonnxruntime.so.*
# Of onnx: the test cases of its operators, and what evaluates them.
rm -rf onnx/backend/test onnx/test onnx/reference
# Of NumPy: headers and what compiles Fortran.
rm -rf numpy/_core/include numpy/_core/lib numpy/random/lib numpy/f2py numpy/distutils
# Of Pygments: colors for five hundred languages, none of which is shown.
find pygments/lexers -name '[a-z]*.py' -delete
find . -type d -name tests -prune -exec rm -rf {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.a' \
    -o -name '*.proto' -o -name '*.in' \) -delete
