// What a file says about itself.
#pragma once

#include <string>
#include <vector>

struct Info {
  std::vector<std::string> outputs, classes;
  bool rgb = false;                         // order of channels; BGR otherwise
  int shortest_edge = 0, longest_edge = 0;  // 0 leaves images as they are
  int height = 0, width = 0;                // that images are padded to; 0 for any
};

Info parse_info(const std::string& json);
std::string quoted(const std::string& text);  // as JSON

// Size of an image whose shortest edge gets a length, unless the longest would get too long.
void resized_size(const Info& info, int& height, int& width);
