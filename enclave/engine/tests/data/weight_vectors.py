#!/usr/bin/env python3
"""Writes weight_vectors.txt: blocks of every quantised type, and the numbers that the PyPI package `gguf`
makes of them.

usage: weight_vectors.py > weight_vectors.txt      (needs gguf)

Each line: the type's name, a block in hexadecimal, its numbers as little-endian single precision in
hexadecimal. Scales are of usual size, negative, zero, subnormal and as large as can be; those of short blocks also
infinite and not numbers.
"""

import random
import struct

import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Where the half-precision numbers of a block are, in bytes.
HALVES = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
# A thousandth, a negative one, zero, the smallest, the largest, infinity, not a number. Long blocks have the
# first five.
BITS = [0x1419, 0xA123, 0x0000, 0x0001, 0x7BFF, 0x7C00, 0x7E01]


def line(name, block):
    numbers = quants.dequantize(numpy.frombuffer(bytes(block), numpy.uint8), GGMLQuantizationType[name])
    print(name, bytes(block).hex(), numbers.astype("<f4").tobytes().hex(), sep="\t")


def main():
    random.seed(9)
    numpy.seterr(all="ignore")
    for name, places in HALVES.items():
        length, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        for index, bits in enumerate(BITS if length == 32 else BITS[:5]):
            block = bytearray(random.randbytes(size))
            for at, place in enumerate(places):
                # Where there is an offset, it is of another size.
                struct.pack_into("<H", block, place, BITS[(index + at) % len(BITS)])
            line(name, block)
    # 255 is not a number for the engine, and 2^128 for the package.
    for exponent in [120, 0, 1, 2, 3, 127, 254]:
        line("MXFP4", bytes([exponent]) + random.randbytes(16))


main()
