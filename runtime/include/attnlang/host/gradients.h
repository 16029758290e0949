// What a backward kernel gets beside the forward pass's call, and where its results go.
//
// Crosses the C boundary between an op's binding and a kernel unit, as `Call` does.
#pragma once

#include "attnlang/host/call.h"

namespace attnlang {

struct Gradients {
  // Saved by the forward pass, and what reached its results.
  Tensor out;       // [B, HQ, Q, DV] f32; of a GPU's kernels: q's dtype or f32, as out_grad
  Tensor lse;       // [B, HQ, Q] f32; data null without a softmax
  Tensor out_grad;  // [B, HQ, Q, DV] f32, any strides
  Tensor lse_grad;  // [B, HQ, Q] f32; data null: nothing reached it
  // Written whole.
  Tensor q, k, v;  // as the call's
  // f32, dense, zeros before the call (a GPU's kernels clear them); data null: not wanted.
  const Tensor* scalars;  // 0-d, in the order of the call's
  const Tensor* tensors;  // of the parameters' shapes
};

using BackwardFunction = int (*)(const Call* call, const Gradients* gradients, char* error);
// Of a GPU unit: the bytes that a call needs as its workspace.
using BackwardWorkspaceFunction = int64_t (*)(const Call* call, const Gradients* gradients);

}  // namespace attnlang
