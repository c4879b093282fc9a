// ONNX files through onnxruntime's C interface.
//
// The pip package of onnxruntime has its library and none of its headers, so the functions that are
// used here are declared here: the interface is a table of function pointers that only grows at its
// end, and every function keeps its place.
#include <dlfcn.h>

#include <array>
#include <numeric>
#include <stdexcept>

#include "model.h"

namespace {

struct Status;
struct Env;
struct Session;
struct Options;
struct Value;
struct MemoryInfo;
struct Shape;
struct Metadata;
struct Allocator;

struct ApiBase {
  void* const* (*get_api)(uint32_t version);
  const char* (*version)();
};

// Values of the enumerations of the interface.
constexpr int kError = 3, kDeviceAllocator = 0, kDefaultMemory = 0;
constexpr int kFloat = 1, kInt64 = 7;
constexpr uint32_t kApiVersion = 11;

class Api {
 public:
  explicit Api(const char* library) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) throw std::runtime_error(dlerror());
    using GetBase = const ApiBase* (*)();
    const auto get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
    if (get_base == nullptr) throw std::runtime_error(dlerror());
    table_ = get_base()->get_api(kApiVersion);
    if (table_ == nullptr) throw std::runtime_error("This onnxruntime is too old.");
  }

  // Calls the function at a place of the table.
  template <typename Result, typename... Arguments>
  Result call(int place, Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(table_[place])(arguments...);
  }

  // The same for functions that return a status.
  template <typename... Arguments>
  void check(int place, Arguments... arguments) const {
    Status* status = call<Status*>(place, arguments...);
    if (status == nullptr) return;
    const std::string message = call<const char*>(2, static_cast<const Status*>(status));
    call<void>(93, status);
    throw std::runtime_error(message);
  }

 private:
  void* const* table_ = nullptr;
};

class OnnxModel : public Model {
 public:
  explicit OnnxModel(const std::string& path) : api_(ONNXRUNTIME_LIBRARY) {
    api_.check(3, kError, "detect", &env_);                      // CreateEnv
    api_.check(10, &options_);                                   // CreateSessionOptions
    api_.check(7, static_cast<const Env*>(env_), path.c_str(),   // CreateSession
               static_cast<const Options*>(options_), &session_);
    api_.check(69, kDeviceAllocator, kDefaultMemory, &memory_);  // CreateCpuMemoryInfo
    api_.check(78, &allocator_);                                 // GetAllocatorWithDefaultOptions
    inputs_ = names(30, 36);   // SessionGetInputCount, SessionGetInputName
    outputs_ = names(31, 37);  // SessionGetOutputCount, SessionGetOutputName
    Metadata* metadata = nullptr;
    api_.check(111, static_cast<const Session*>(session_), &metadata);  // SessionGetModelMetadata
    char* text = nullptr;  // ModelMetadataLookupCustomMetadataMap
    api_.check(116, static_cast<const Metadata*>(metadata), allocator_, "detectron2", &text);
    if (text != nullptr) info_ = taken(text);
    api_.call<void>(118, metadata);  // ReleaseModelMetadata
  }

  ~OnnxModel() override {
    api_.call<void>(94, memory_);
    api_.call<void>(95, session_);
    api_.call<void>(100, options_);
    api_.call<void>(92, env_);
  }

  std::string info() const override { return info_; }

  std::vector<Tensor> run(std::vector<float> pixels, int height, int width, int image_height,
                          int image_width) override {
    std::array<int64_t, 2> size{image_height, image_width};
    const std::array<int64_t, 4> image_shape{1, 3, height, width};
    const std::array<int64_t, 2> size_shape{1, 2};
    Value* images = tensor(pixels.data(), pixels.size() * sizeof(float), image_shape, kFloat);
    Value* sizes = tensor(size.data(), sizeof(size), size_shape, kInt64);
    // A graph that does not depend on an input has none of that name.
    std::vector<const char*> input_names, output_names;
    std::vector<const Value*> given;
    for (const std::string& name : inputs_) {
      input_names.push_back(name.c_str());
      given.push_back(name == "images" ? images : sizes);
    }
    for (const std::string& name : outputs_) output_names.push_back(name.c_str());
    std::vector<Value*> values(outputs_.size(), nullptr);
    api_.check(9, session_, static_cast<const void*>(nullptr),  // Run
               static_cast<const char* const*>(input_names.data()),
               static_cast<const Value* const*>(given.data()), given.size(),
               static_cast<const char* const*>(output_names.data()), output_names.size(),
               values.data());
    std::vector<Tensor> outputs;
    for (Value* value : values) outputs.push_back(copied(value));
    for (Value* value : values) api_.call<void>(96, value);  // ReleaseValue
    api_.call<void>(96, images);
    api_.call<void>(96, sizes);
    return outputs;
  }

 private:
  std::vector<std::string> names(int count_place, int name_place) const {
    size_t count = 0;
    api_.check(count_place, static_cast<const Session*>(session_), &count);
    std::vector<std::string> found;
    for (size_t index = 0; index < count; ++index) {
      char* name = nullptr;
      api_.check(name_place, static_cast<const Session*>(session_), index, allocator_, &name);
      found.push_back(taken(name));
    }
    return found;
  }

  std::string taken(char* text) const {
    const std::string copy = text;
    api_.check(76, allocator_, static_cast<void*>(text));  // AllocatorFree
    return copy;
  }

  template <size_t N>
  Value* tensor(void* data, size_t bytes, const std::array<int64_t, N>& shape, int type) const {
    Value* value = nullptr;  // CreateTensorWithDataAsOrtValue
    api_.check(49, static_cast<const MemoryInfo*>(memory_), data, bytes, shape.data(), N, type,
               &value);
    return value;
  }

  Tensor copied(Value* value) const {
    Shape* shape = nullptr;
    int type = 0;
    size_t rank = 0;
    void* data = nullptr;
    Tensor result;
    api_.check(65, static_cast<const Value*>(value), &shape);  // GetTensorTypeAndShape
    api_.check(60, static_cast<const Shape*>(shape), &type);   // GetTensorElementType
    api_.check(61, static_cast<const Shape*>(shape), &rank);   // GetDimensionsCount
    result.shape.resize(rank);
    api_.check(62, static_cast<const Shape*>(shape), result.shape.data(), rank);  // GetDimensions
    api_.call<void>(99, shape);          // ReleaseTensorTypeAndShapeInfo
    api_.check(51, value, &data);        // GetTensorMutableData
    const size_t count = std::accumulate(result.shape.begin(), result.shape.end(), int64_t{1},
                                         std::multiplies<int64_t>());
    if (type == kFloat) {
      const auto* begin = static_cast<const float*>(data);
      result.values.assign(begin, begin + count);
    } else if (type == kInt64) {
      const auto* begin = static_cast<const int64_t*>(data);
      result.values.assign(begin, begin + count);
    } else {
      throw std::runtime_error("An output is neither float32 nor int64.");
    }
    return result;
  }

  Api api_;
  Env* env_ = nullptr;
  Options* options_ = nullptr;
  Session* session_ = nullptr;
  MemoryInfo* memory_ = nullptr;
  Allocator* allocator_ = nullptr;
  std::vector<std::string> inputs_, outputs_;
  std::string info_;
};

}  // namespace

std::unique_ptr<Model> load_onnx(const std::string& path) {
  return std::make_unique<OnnxModel>(path);
}
