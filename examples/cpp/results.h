// From the outputs of a file to detections in the frame of the picture.
#pragma once

#include <array>
#include <vector>

#include "image.h"
#include "info.h"
#include "model.h"

struct Detection {
  std::array<double, 4> box;  // x0, y0, x1, y1 in pixels of the picture
  double score = 0;
  int category = 0;
  std::vector<uint8_t> mask;  // (height, width) of the picture, 0 or 1; empty without masks
};

// Best first; `network_*` is the size of the picture as the model saw it.
std::vector<Detection> detections(const Info& info, const std::vector<Tensor>& outputs, int height,
                                  int width, int network_height, int network_width,
                                  double min_score);
