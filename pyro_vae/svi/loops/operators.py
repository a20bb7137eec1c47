"""ATen's elementwise operations, written in C.

`{0}`, `{1}` and so on stand for the operands, `{f}` for the letter that C's
functions of floats end in. NaNs go where torch lets them go.
"""

import math

import torch

C_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "long",
    torch.int32: "int",
    torch.uint8: "unsigned char",
    torch.bool: "unsigned char",
}
ROUNDED = {torch.bfloat16: "unsigned short"}  # read and written, not computed

# Functions that glibc has for whole vectors.
FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "pow")

ELEMENTWISE = {
    "aten.abs.default": "__builtin_fabs{f}({0})",
    "aten.add.Scalar": "{0} + {1}",
    "aten.add.Tensor": "{0} + {1}",
    "aten.binary_cross_entropy_with_logits.default": (
        "(1 - {1}) * {0} - "
        "(({0} < 0 ? {0} : 0) - log1p{f}(exp{f}(-__builtin_fabs{f}({0}))))"
    ),
    "aten.clamp_max.default": "{0} > {1} ? {1} : {0}",
    "aten.clamp_min.default": "{0} < {1} ? {1} : {0}",
    "aten.cos.default": "cos{f}({0})",
    "aten.div.Scalar": "{0} / {1}",
    "aten.div.Tensor": "{0} / {1}",
    "aten.erf.default": "erf{f}({0})",
    "aten.exp.default": "exp{f}({0})",
    "aten.expm1.default": "expm1{f}({0})",
    "aten.log.default": "log{f}({0})",
    "aten.log1p.default": "log1p{f}({0})",
    "aten.maximum.default": "({0} > {1} || {0} != {0}) ? {0} : {1}",
    "aten.minimum.default": "({0} < {1} || {0} != {0}) ? {0} : {1}",
    "aten.mul.Scalar": "{0} * {1}",
    "aten.mul.Tensor": "{0} * {1}",
    "aten.neg.default": "-{0}",
    "aten.pow.Tensor_Tensor": "pow{f}({0}, {1})",
    "aten.reciprocal.default": "1 / {0}",
    "aten.relu.default": "{0} < 0 ? 0 : {0}",
    "aten.rsqrt.default": "1 / __builtin_sqrt{f}({0})",
    "aten.rsub.Scalar": "{1} - {0}",
    "aten.sgn.default": "({0} > 0) - ({0} < 0)",
    "aten.sigmoid.default": "1 / (1 + exp{f}(-{0}))",
    "aten.sigmoid_backward.default": "{0} * (1 - {1}) * {1}",
    "aten.sign.default": "({0} > 0) - ({0} < 0)",
    "aten.silu.default": "{0} / (1 + exp{f}(-{0}))",
    "aten.sin.default": "sin{f}({0})",
    "aten.softplus.default": (
        "{0} * {1} > {2} ? {0} : log1p{f}(exp{f}({0} * {1})) / {1}"
    ),
    "aten.softplus_backward.default": (
        "{1} * {2} > {3} ? {0} : {0} / (1 + exp{f}(-{1} * {2}))"
    ),
    "aten.sqrt.default": "__builtin_sqrt{f}({0})",
    "aten.sub.Scalar": "{0} - {1}",
    "aten.sub.Tensor": "{0} - {1}",
    "aten.tanh.default": "tanh{f}({0})",
    "aten.tanh_backward.default": "{0} * (1 - {1} * {1})",
    "aten.threshold_backward.default": "{1} <= {2} ? 0 : {0}",
    "aten.xlogy.Tensor": (
        "{1} != {1} ? {1} : {0} == 0 ? 0 : {0} * log{f}({1})"
    ),
}
INTEGRAL = {  # of these, the ones that are written so for integers, too
    f"aten.{name}"
    for name in (
        "add.Scalar",
        "add.Tensor",
        "clamp_max.default",
        "clamp_min.default",
        "maximum.default",
        "minimum.default",
        "mul.Scalar",
        "mul.Tensor",
        "neg.default",
        "relu.default",
        "rsub.Scalar",
        "sub.Scalar",
        "sub.Tensor",
    )
}
DEFAULTS = {"aten.softplus.default": (1, 20)}  # of arguments that are left out

# A whole power is faster than `pow`; others are exact as roots.
POWERS = {
    0.5: "__builtin_sqrt{f}({0})",
    1: "{0}",
    2: "{0} * {0}",
    3: "{0} * {0} * {0}",
    -0.5: "1 / __builtin_sqrt{f}({0})",
    -1: "1 / {0}",
    -2: "1 / ({0} * {0})",
}

# Of operands that are compared in the dtype that torch promotes them to.
COMPARISONS = {
    f"aten.{name}.{kind}": f"{{0}} {sign} {{1}}"
    for name, sign in {
        "eq": "==",
        "ge": ">=",
        "gt": ">",
        "le": "<=",
        "lt": "<",
        "ne": "!=",
    }.items()
    for kind in ("Tensor", "Scalar")
}
COMPARISONS["aten.isnan.default"] = "{0} != {0}"

LOGICAL = {  # of booleans
    "aten.bitwise_and.Tensor": "{0} & {1}",
    "aten.bitwise_not.default": "!{0}",
    "aten.bitwise_or.Tensor": "{0} | {1}",
    "aten.logical_and.default": "{0} & {1}",
    "aten.logical_not.default": "!{0}",
    "aten.logical_or.default": "{0} | {1}",
}

SELECTIONS = {  # the place of the condition, and what is chosen
    "aten.masked_fill.Scalar": (1, "{1} ? {2} : {0}"),
    "aten.masked_fill.Tensor": (1, "{1} ? {2} : {0}"),
    "aten.where.self": (0, "{0} ? {1} : {2}"),
}

CASTS = {
    "aten._to_copy.default",
    "aten.clone.default",
    "aten.lift_fresh_copy.default",
}

CHANGES = {  # to a tensor's values, or to one number
    "aten.copy.default",
    "aten.fill.Scalar",
    "aten.zero.default",
}

CONSTANTS = {  # of one value in all places
    "aten.full.default",
    "aten.full_like.default",
    "aten.new_full.default",
    "aten.new_ones.default",
    "aten.new_zeros.default",
    "aten.ones.default",
    "aten.ones_like.default",
    "aten.scalar_tensor.default",
    "aten.zeros.default",
    "aten.zeros_like.default",
}

EMPTY = {
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.empty_strided.default",
    "aten.new_empty.default",
    "aten.new_empty_strided.default",
}

REDUCTIONS = {
    "aten.amax.default": "max",
    "aten.amin.default": "min",
    "aten.mean.default": "mean",
    "aten.mean.dim": "mean",
    "aten.sum.default": "sum",
    "aten.sum.dim_IntList": "sum",
}


def write_number(value: float, dtype: torch.dtype) -> str:
    """Returns a number in C, rounded to a dtype as torch rounds it."""
    kind = C_TYPES[dtype]
    if dtype == torch.bool:
        return str(int(bool(value)))
    if not dtype.is_floating_point:
        return f"(({kind}){int(value)})"
    if math.isnan(value):
        text = '__builtin_nan("")'
    elif math.isinf(value):
        text = "__builtin_inf()" if value > 0 else "-__builtin_inf()"
    else:
        text = float(value).hex()
    return f"(({kind}){text})"


def declare_value(dtype: torch.dtype, name: str, text: str) -> str:
    """Returns the declaration of a value, rounded to its dtype."""
    if dtype in ROUNDED:
        return f"const float {name} = widen(round_even({text}));"
    # An int is as wide as a float: gcc packs and unpacks vectors around bytes.
    kind = "int" if dtype == torch.bool else C_TYPES[dtype]
    return f"const {kind} {name} = {text};"
