// A file that `detectron2 export` wrote, whichever runtime runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// Numbers in row-major order. Integers are kept as doubles: class and image indices are small.
struct Tensor {
  std::vector<int64_t> shape;
  std::vector<double> values;
};

class Model {
 public:
  virtual ~Model() = default;

  // The description in the file, JSON (`detectron2.export.info.ExportInfo`).
  virtual std::string info() const = 0;

  // Outputs in the order of the description. `pixels` are (1, 3, height, width), 0..255, in the
  // model's order of channels; the image fills the upper left image_height x image_width of them.
  virtual std::vector<Tensor> run(std::vector<float> pixels, int height, int width,
                                  int image_height, int image_width) = 0;
};

std::unique_ptr<Model> load_torchscript(const std::string& path);
std::unique_ptr<Model> load_onnx(const std::string& path);
