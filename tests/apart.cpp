// The device `apart`: it computes as the processor does, in the same memory, but its tensors are no tensors of the
// processor. What would fail on a GPU for want of a copy, or for a generator of the wrong device, fails on it too,
// on machines that have no GPU. It says nothing of a GPU's own kernels, rounding or speed.
//
// Every operator goes to the processor's kernel: arguments are lent as tensors of the processor over the same
// memory, and results are brought back as what they are: the argument itself, a view of it, or something new.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

using c10::Device;
using c10::DeviceType;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;

const Device APART(DeviceType::PrivateUse1, 0);

// ---------------------------------------------------------------- memory

// Bytes of all tensors that there are, and the most that there have been, as `torch.cuda.max_memory_allocated` has them.
std::atomic<int64_t> held{0}, peak{0};

// Every block is preceded by a line of its own with its size.
constexpr size_t LINE = 64;

void give_back(void* block) {
  if (block == nullptr) return;
  held -= *static_cast<int64_t*>(block);
  std::free(block);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &give_back, APART};
    void* block = std::aligned_alloc(LINE, LINE + (bytes + LINE - 1) / LINE * LINE);
    TORCH_CHECK(block, "no memory for ", bytes, " bytes");
    *static_cast<int64_t*>(block) = static_cast<int64_t>(bytes);
    held += static_cast<int64_t>(bytes);
    if (held > peak) peak = held.load();
    return {static_cast<char*>(block) + LINE, block, &give_back, APART};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Memory memory;
REGISTER_ALLOCATOR(DeviceType::PrivateUse1, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::PrivateUse1; }
  Device exchangeDevice(Device) const override { return APART; }
  Device getDevice() const override { return APART; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const override { return c10::Stream(c10::Stream::DEFAULT, APART); }
  c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, APART); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// ---------------------------------------------------------------- random numbers

struct Random final : c10::GeneratorImpl {
  at::Generator inner;
  Random() : GeneratorImpl(APART, DispatchKeySet(DispatchKey::PrivateUse1)), inner(at::detail::createCPUGenerator()) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  GeneratorImpl* clone_impl() const override {
    auto* copy = new Random();
    copy->inner = inner.clone();
    return copy;
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static at::Generator generator = at::make_generator<Random>();
    return generator;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Random>(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    at::native::resize_bytes_nocuda(storage, bytes);
  }
};

// ---------------------------------------------------------------- tensors

bool ours(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == DeviceType::PrivateUse1; }

// The same memory, seen as a tensor of the host.
at::Tensor host(const at::Tensor& tensor) {
  auto* data = tensor.storage().mutable_data();
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), c10::DataPtr(data, Device(DeviceType::CPU)), nullptr, false);
  auto seen = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(DispatchKey::CPU), tensor.dtype());
  seen.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return seen;
}

at::Tensor brought(const at::Tensor& made) {
  auto result = at::detail::empty_strided_generic(made.sizes(), made.strides(), &memory, DispatchKeySet(DispatchKey::PrivateUse1), made.scalar_type());
  size_t bytes = result.storage().nbytes();
  if (bytes) std::memcpy(result.storage().mutable_data(), static_cast<const char*>(made.data_ptr()), bytes);
  return result;
}

at::Tensor view_of(const at::Tensor& base, const at::Tensor& seen) {
  auto result = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(), seen.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(seen.sizes(), seen.strides(), seen.storage_offset());
  return result;
}

struct Call {
  std::vector<at::Tensor> given, seen;
  bool any = false;

  at::Tensor lend(const at::Tensor& tensor, const std::string& op) {
    if (!tensor.defined()) return tensor;
    if (!ours(tensor)) {
      // As on CUDA: a number may come from the host, and so may positions that index.
      bool allowed = tensor.dim() == 0 || op.rfind("aten::index", 0) == 0 || op.rfind("aten::_index", 0) == 0;
      TORCH_CHECK(allowed, "Expected all tensors to be on the same device, but ", op, " was given tensors of apart:0 and ", tensor.device());
      return tensor;
    }
    given.push_back(tensor);
    bool empty = tensor.numel() == 0 && tensor.storage().nbytes() == 0;
    seen.push_back(empty ? at::detail::empty_cpu(tensor.sizes(), tensor.scalar_type()) : host(tensor));
    return seen.back();
  }

  at::Tensor back(const at::Tensor& made) {
    if (!made.defined()) return made;
    for (size_t i = 0; i < seen.size(); ++i)
      if (made.unsafeGetTensorImpl() == seen[i].unsafeGetTensorImpl()) return given[i];
    if (made.storage().nbytes())
      for (size_t i = 0; i < seen.size(); ++i)
        if (made.storage().data() == given[i].storage().data()) return view_of(given[i], made);
    return brought(made);
  }

  // What was written into an empty tensor stands in memory of the host, and goes where it belongs.
  void settle() {
    for (size_t i = 0; i < seen.size(); ++i) {
      if (seen[i].numel() == given[i].numel() && seen[i].sizes() == given[i].sizes()) continue;
      at::native::resize_(given[i], seen[i].sizes());
      host(given[i]).copy_(seen[i]);
    }
  }
};

void on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = schema.operator_name().name;
  const size_t count = schema.arguments().size(), start = stack->size() - count;
  Call call;
  for (size_t i = start; i < stack->size(); ++i) {
    IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.lend(value.toTensor(), name);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> lent;
      for (const at::Tensor& tensor : value.toTensorVector()) lent.push_back(call.lend(tensor, name));
      value = lent;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> lent;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        lent.push_back(tensor ? std::optional<at::Tensor>(call.lend(*tensor, name)) : std::nullopt);
      value = lent;
    } else if (value.isDevice()) {
      value = Device(DeviceType::CPU);
    } else if (value.isGenerator()) {
      auto generator = value.toGenerator();
      TORCH_CHECK(generator.device().type() == DeviceType::PrivateUse1, "Expected a 'apart' generator for ", name, " but found '", generator.device(), "'");
      value = static_cast<Random*>(generator.unsafeGetGeneratorImpl())->inner;
    }
  }
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
  call.settle();
  const size_t results = schema.returns().size();
  for (size_t i = stack->size() - results; i < stack->size(); ++i) {
    IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = call.back(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> taken;
      for (const at::Tensor& tensor : value.toTensorVector()) taken.push_back(call.back(tensor));
      value = taken;
    }
  }
}

at::Tensor make_empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, DispatchKeySet(DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

at::Tensor make_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, DispatchKeySet(DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  auto target = ours(to) ? host(to) : to;
  target.copy_(ours(from) ? host(from) : from);
  return to;
}

const at::Tensor& resize(const at::Tensor& tensor, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(tensor, C10_AS_INTARRAYREF_SLOW(size), format);
}

at::Tensor& set_storage(at::Tensor& tensor, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::set_storage_meta__symint(tensor, source, offset, size, stride);
}

at::Tensor& set_whole_storage(at::Tensor& tensor, at::Storage source) {
  const auto length = static_cast<int64_t>(source.nbytes() / tensor.dtype().itemsize());
  return set_storage(tensor, source, 0, c10::SymIntArrayRef(std::vector<c10::SymInt>{length}), c10::SymIntArrayRef(std::vector<c10::SymInt>{1}));
}

int64_t attention(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool, std::optional<double>, bool) {
  return 0; // by its definition
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &make_empty);
  m.impl("empty_strided", &make_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("_fused_sdp_choice", &attention);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_host>()); }

TORCH_LIBRARY(apart, m) {
  m.def("held() -> int", [] { return held.load(); });
  m.def("peak() -> int", [] { return peak.load(); });
  m.def("restart() -> ()", [] { peak = held.load(); });
}

const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

} // namespace
