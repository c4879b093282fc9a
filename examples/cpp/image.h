// Pictures: PPM and PGM files, and resizing as Pillow does it, which is what the models saw in training.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Image {
  int height = 0, width = 0, channels = 0;
  std::vector<uint8_t> pixels;  // (height, width, channels)
};

Image read_ppm(const std::string& path);                        // three channels, RGB
void write_pgm(const std::string& path, const Image& image);  // one channel

// Bilinear with antialiasing, bit by bit what Pillow 12 and later compute.
Image resized(const Image& image, int height, int width);
