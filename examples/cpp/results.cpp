#include "results.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace {

const Tensor* find(const Info& info, const std::vector<Tensor>& outputs, const std::string& name) {
  const auto found = std::find(info.outputs.begin(), info.outputs.end(), name);
  return found == info.outputs.end() ? nullptr : &outputs[found - info.outputs.begin()];
}

// Probability at (x, y) of a grid, between its cells; 0 outside.
double sample(const double* grid, int rows, int columns, double y, double x) {
  const int top = static_cast<int>(std::floor(y)), left = static_cast<int>(std::floor(x));
  double sum = 0;
  for (int dy = 0; dy < 2; ++dy)
    for (int dx = 0; dx < 2; ++dx) {
      const int row = top + dy, column = left + dx;
      if (row < 0 || row >= rows || column < 0 || column >= columns) continue;
      sum += grid[row * columns + column] * (1 - std::abs(y - row)) * (1 - std::abs(x - column));
    }
  return sum;
}

// A mask on a grid over its box, drawn into the picture: the value at the centre of each pixel.
std::vector<uint8_t> pasted(const double* grid, int rows, int columns,
                            const std::array<double, 4>& box, int height, int width) {
  std::vector<uint8_t> mask(static_cast<size_t>(height) * width, 0);
  const auto [x0, y0, x1, y1] = box;
  for (int y = std::max(0, static_cast<int>(y0) - 1); y < std::min<double>(height, y1 + 1); ++y)
    for (int x = std::max(0, static_cast<int>(x0) - 1); x < std::min<double>(width, x1 + 1); ++x) {
      const double v = (y + 0.5 - y0) / (y1 - y0) * rows - 0.5;
      const double u = (x + 0.5 - x0) / (x1 - x0) * columns - 0.5;
      mask[static_cast<size_t>(y) * width + x] = sample(grid, rows, columns, v, u) >= 0.5;
    }
  return mask;
}

}  // namespace

std::vector<Detection> detections(const Info& info, const std::vector<Tensor>& outputs, int height,
                                  int width, int network_height, int network_width,
                                  double min_score) {
  const Tensor* boxes = find(info, outputs, "pred_boxes");
  const Tensor* scores = find(info, outputs, "scores");
  const Tensor* classes = find(info, outputs, "pred_classes");
  const Tensor* masks = find(info, outputs, "pred_masks");
  if (boxes == nullptr || boxes->shape.at(1) != 4)
    throw std::runtime_error("This program shows upright boxes, which the model does not predict.");
  const double across = static_cast<double>(width) / network_width;
  const double down = static_cast<double>(height) / network_height;
  std::vector<Detection> found;
  for (int64_t index = 0; index < boxes->shape[0]; ++index) {
    const double* box = boxes->values.data() + 4 * index;
    Detection each;
    each.box = {std::clamp(box[0] * across, 0.0, static_cast<double>(width)),
                std::clamp(box[1] * down, 0.0, static_cast<double>(height)),
                std::clamp(box[2] * across, 0.0, static_cast<double>(width)),
                std::clamp(box[3] * down, 0.0, static_cast<double>(height))};
    each.score = scores->values[index];
    each.category = static_cast<int>(classes->values[index]);
    const bool empty = each.box[2] <= each.box[0] || each.box[3] <= each.box[1];
    if (empty || each.score < min_score) continue;
    if (masks != nullptr) {
      const int rows = static_cast<int>(masks->shape[2]), columns = static_cast<int>(masks->shape[3]);
      each.mask = pasted(masks->values.data() + index * rows * columns, rows, columns, each.box,
                         height, width);
    }
    found.push_back(std::move(each));
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Detection& a, const Detection& b) { return a.score > b.score; });
  return found;
}
