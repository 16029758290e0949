// What a backward kernel gets beside the forward pass's call, and where its results go.
//
// Crosses the C boundary between an op's binding and a kernel unit, as `Call` does.
#pragma once

#include "attnlang/host/call.h"

namespace attnlang {

struct Gradients {
  // Saved by the forward pass, and what reached its results.
  Tensor out;       // [B, HQ, Q, DV] f32
  Tensor lse;       // [B, HQ, Q] f32; data null without a softmax
  Tensor out_grad;  // [B, HQ, Q, DV] f32, any strides
  Tensor lse_grad;  // [B, HQ, Q] f32; data null: nothing reached it
  // Written whole.
  Tensor q, k, v;  // as the call's
  // f32, dense, zeros before the call; data null: not wanted.
  const Tensor* scalars;  // 0-d, in the order of the call's
  const Tensor* tensors;  // of the parameters' shapes
};

using BackwardFunction = int (*)(const Call* call, const Gradients* gradients, char* error);

}  // namespace attnlang
