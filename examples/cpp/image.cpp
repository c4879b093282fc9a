#include "image.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <stdexcept>

namespace {

constexpr int kLargestSide = 1 << 16;

// The next number of the head of a PPM file, behind white space and comments.
int number(std::istream& stream, const std::string& path) {
  int letter = stream.get();
  while (std::isspace(letter) || letter == '#') {
    if (letter == '#')
      while (letter != '\n' && letter != EOF) letter = stream.get();
    letter = stream.get();
  }
  int value = 0;
  if (!std::isdigit(letter)) throw std::runtime_error("'" + path + "' has a broken head.");
  for (; std::isdigit(letter); letter = stream.get()) {
    value = 10 * value + (letter - '0');
    if (value > kLargestSide) throw std::runtime_error("'" + path + "' is too large.");
  }
  return value;  // the one white space behind it is read as well
}

}  // namespace

Image read_ppm(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("'" + path + "' cannot be read.");
  if (stream.get() != 'P' || stream.get() != '6')
    throw std::runtime_error("'" + path + "' is no PPM picture (P6, 8 bits); convert it, see README.md.");
  Image image;
  image.channels = 3;
  image.width = number(stream, path);
  image.height = number(stream, path);
  if (image.width == 0 || image.height == 0 || number(stream, path) != 255)
    throw std::runtime_error("'" + path + "' has no pixels, or not 8 bits for each colour.");
  image.pixels.resize(static_cast<size_t>(image.height) * image.width * 3);
  stream.read(reinterpret_cast<char*>(image.pixels.data()),
              static_cast<std::streamsize>(image.pixels.size()));
  if (!stream) throw std::runtime_error("'" + path + "' is incomplete.");
  return image;
}

void write_pgm(const std::string& path, const Image& image) {
  std::ofstream stream(path, std::ios::binary);
  stream << "P5\n" << image.width << " " << image.height << "\n255\n";
  stream.write(reinterpret_cast<const char*>(image.pixels.data()),
               static_cast<std::streamsize>(image.pixels.size()));
  if (!stream.flush()) throw std::runtime_error("'" + path + "' cannot be written.");
}

namespace {

constexpr int kBits = 22;  // of the fractions of weights

// For each output sample the first input sample that it depends on, and their weights.
struct Weights {
  std::vector<int> first;
  std::vector<std::vector<int>> values;
};

// A triangle over the input samples, as wide as the scale when the picture shrinks.
Weights triangle(int input, int output) {
  const double scale = static_cast<double>(input) / output, support = std::max(scale, 1.0);
  Weights weights;
  for (int index = 0; index < output; ++index) {
    const double center = (index + 0.5) * scale;
    const int begin = std::max(0, static_cast<int>(center - support + 0.5));
    const int end = std::min(input, static_cast<int>(center + support + 0.5));
    std::vector<double> shares;
    double sum = 0;
    for (int k = begin; k < end; ++k) {
      shares.push_back(std::max(0.0, 1 - std::abs((k - center + 0.5) * (1 / support))));
      sum += shares.back();
    }
    std::vector<int> fixed;
    for (double share : shares)
      fixed.push_back(static_cast<int>(share / sum * (1 << kBits) + 0.5));
    weights.first.push_back(begin);
    weights.values.push_back(std::move(fixed));
  }
  return weights;
}

// The triangles over rows (`down`) or over the pixels of each row.
Image resampled(const Image& image, const Weights& weights, bool down) {
  const int length = static_cast<int>(weights.first.size()), channels = image.channels;
  Image result{down ? length : image.height, down ? image.width : length, channels, {}};
  const size_t row = static_cast<size_t>(image.width) * channels;
  const size_t step = down ? row : channels;  // from an input sample to the next
  result.pixels.reserve(static_cast<size_t>(result.height) * result.width * channels);
  for (int y = 0; y < result.height; ++y)
    for (int x = 0; x < result.width; ++x)
      for (int c = 0; c < channels; ++c) {
        const int index = down ? y : x;
        const uint8_t* source = image.pixels.data() + (down ? 0 : y * row) +
                                (down ? static_cast<size_t>(x) * channels : 0) + c +
                                weights.first[index] * step;
        int sum = 1 << (kBits - 1);
        for (int weight : weights.values[index]) {
          sum += weight * *source;
          source += step;
        }
        result.pixels.push_back(static_cast<uint8_t>(std::clamp(sum >> kBits, 0, 255)));
      }
  return result;
}

}  // namespace

Image resized(const Image& image, int height, int width) {
  // An axis that keeps its length is left alone. Pillow 12 and later begin with the columns where
  // that leaves less work; as pixels are rounded in between, the order shows.
  Image result = image;
  const bool down_first =
      height < image.height && image.height - height > 2 * (image.width - width);
  for (const bool down : {down_first, !down_first}) {
    const int from = down ? image.height : image.width, to = down ? height : width;
    if (from != to) result = resampled(result, triangle(from, to), down);
  }
  return result;
}
