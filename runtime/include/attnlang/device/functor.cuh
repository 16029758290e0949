// All that the text of a generated functor may call on a GPU (docs/cuda-variant.md).
#pragma once

#include "attnlang/device/arguments.cuh"
#include "attnlang/device/philox.cuh"
#include "attnlang/device/scalar.cuh"
#include "attnlang/device/vectors.cuh"
#include "attnlang/host/call.h"
#include "attnlang/host/coverage.h"
#include "attnlang/host/float_interval.h"
#include "attnlang/host/interval_load.h"
