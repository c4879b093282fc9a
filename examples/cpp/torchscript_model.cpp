// TorchScript files through libtorch.
#include <torch/script.h>

#include "model.h"

namespace {

class TorchScriptModel : public Model {
 public:
  explicit TorchScriptModel(const std::string& path) {
    torch::jit::ExtraFilesMap files{{"detectron2.json", ""}};
    module_ = torch::jit::load(path, torch::kCPU, files);
    module_.eval();
    info_ = files["detectron2.json"];
  }

  std::string info() const override { return info_; }

  std::vector<Tensor> run(std::vector<float> pixels, int height, int width, int image_height,
                          int image_width) override {
    c10::InferenceMode guard;
    const torch::Tensor images = torch::from_blob(pixels.data(), {1, 3, height, width});
    const torch::Tensor sizes =
        torch::tensor({image_height, image_width}, torch::kInt64).reshape({1, 2});
    const c10::IValue answer = module_.forward({images, sizes});
    std::vector<Tensor> outputs;
    for (const c10::IValue& each : answer.toTupleRef().elements()) {
      const torch::Tensor value = each.toTensor().to(torch::kDouble).contiguous();
      const double* begin = value.const_data_ptr<double>();
      outputs.push_back({value.sizes().vec(), {begin, begin + value.numel()}});
    }
    return outputs;
  }

 private:
  torch::jit::Module module_;
  std::string info_;
};

}  // namespace

std::unique_ptr<Model> load_torchscript(const std::string& path) {
  return std::make_unique<TorchScriptModel>(path);
}
