// What an ahead-of-time object does when it is loaded: it registers its op, and adds its kernels.
//
// The op may have been registered by another object before (one for another dtype, or a
// just-in-time copy), so the kernel goes to whichever is in charge, through the dispatcher. A
// machine without the CPU features that the kernel needs gets none, and calls say why.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "attnlang/host/op.h"
#include "attnlang/host/op_kernels.h"
#include "attnlang/host/op_values.h"

namespace attnlang::op {

// The features, named as /proc/cpuinfo names them, that this machine's first CPU lacks. Where there
// is no such file nothing is known, and nothing is lacking.
inline std::string missing_features(const std::string& needed) {
  std::ifstream file("/proc/cpuinfo");
  std::string line, present;
  while (present.empty() && std::getline(file, line)) {
    if (line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0) {
      present = line.substr(line.find(':') + 1) + " ";
    }
  }
  if (present.empty()) return "";
  std::istringstream words(needed);
  std::string word, missing;
  while (words >> word) {
    if (present.find(" " + word + " ") == std::string::npos) missing += " " + word;
  }
  return missing;
}

class BuiltInOp {
 public:
  explicit BuiltInOp(Op& op) {
    char error[kErrorSize] = "";
    if (attnlang_register(&op, error) != 0) throw std::runtime_error(error);
  }
};

class BuiltInKernel {
 public:
  BuiltInKernel(const Op& op, const KernelKey& key, KernelFunction run, CountFunction count,
                WorkspaceFunction workspace, const char* features) {
    const std::string lend = std::string("attnlang::") + op.spec->name + "_api";
    StableIValue stack[1] = {};
    check(aoti_torch_call_dispatcher(lend.c_str(), "", stack), "find the op");
    const auto& api = *reinterpret_cast<const Api*>(static_cast<uintptr_t>(stack[0]));
    if (const std::string missing = missing_features(features); !missing.empty()) {
      api.set_obstacle(
          api.table,
          ("one that was loaded needs CPU features that this machine lacks:" + missing).c_str());
    } else {
      api.add(api.table, &key, run, count, workspace);
    }
  }
};

}  // namespace attnlang::op
