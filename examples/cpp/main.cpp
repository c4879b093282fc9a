// Finds objects in a picture with a file that `detectron2 export` wrote, without Python.
//
// usage: detect MODEL.ts|MODEL.onnx PICTURE.ppm RESULT.json [MASKS.pgm] [MIN_SCORE]
#include <cstdio>
#include <fstream>
#include <numeric>
#include <stdexcept>

#include "image.h"
#include "info.h"
#include "model.h"
#include "results.h"

namespace {

std::unique_ptr<Model> load(const std::string& path) {
  const std::string suffix = path.substr(path.find_last_of('.') + 1);
#ifdef WITH_TORCH
  if (suffix == "ts" || suffix == "torchscript") return load_torchscript(path);
#endif
#ifdef WITH_ONNX
  if (suffix == "onnx") return load_onnx(path);
#endif
  throw std::runtime_error("'" + path + "' is a ." + suffix +
                           " file, which this program was not built for.");
}

// (3, height, width) in the model's order of channels, zeros beyond the image.
std::vector<float> planes(const Image& image, bool rgb, int height, int width) {
  std::vector<float> values(static_cast<size_t>(3) * height * width, 0.0F);
  for (int c = 0; c < 3; ++c)
    for (int y = 0; y < image.height; ++y)
      for (int x = 0; x < image.width; ++x)
        values[(static_cast<size_t>(c) * height + y) * width + x] =
            image.pixels[(static_cast<size_t>(y) * image.width + x) * 3 + (rgb ? c : 2 - c)];
  return values;
}

void write_json(const std::string& path, const Info& info, const Image& picture,
                const std::vector<Detection>& found) {
  std::ofstream stream(path);
  stream.precision(9);
  stream << "{\"height\": " << picture.height << ", \"width\": " << picture.width
         << ", \"instances\": [";
  const char* separator = "";
  for (const Detection& each : found) {
    const auto [x0, y0, x1, y1] = each.box;
    const bool named = each.category < static_cast<int>(info.classes.size());
    const std::string name =
        named ? info.classes[each.category] : "class " + std::to_string(each.category);
    stream << separator << "\n  {\"category\": " << quoted(name)
           << ", \"category_id\": " << each.category << ", \"score\": " << each.score
           << ", \"bbox\": [" << x0 << ", " << y0 << ", " << x1 - x0 << ", " << y1 - y0 << "]";
    if (!each.mask.empty())
      stream << ", \"area\": " << std::accumulate(each.mask.begin(), each.mask.end(), 0);
    stream << "}";
    separator = ",";
  }
  stream << "\n]}\n";
  if (!stream.flush()) throw std::runtime_error("'" + path + "' cannot be written.");
}

// Grey picture whose pixels say which detection they belong to, counted from 1; the best wins.
Image labels(const Image& picture, const std::vector<Detection>& found) {
  Image image{picture.height, picture.width, 1,
              std::vector<uint8_t>(static_cast<size_t>(picture.height) * picture.width, 0)};
  for (size_t index = std::min<size_t>(found.size(), 255); index-- > 0;)
    for (size_t pixel = 0; pixel < found[index].mask.size(); ++pixel)
      if (found[index].mask[pixel]) image.pixels[pixel] = static_cast<uint8_t>(index + 1);
  return image;
}

void run(int count, char** arguments) {
  if (count < 4 || count > 6)
    throw std::runtime_error("usage: detect MODEL PICTURE.ppm RESULT.json [MASKS.pgm] [MIN_SCORE]");
  const std::unique_ptr<Model> model = load(arguments[1]);
  const Info info = parse_info(model->info());
  const Image picture = read_ppm(arguments[2]);
  int height = picture.height, width = picture.width;
  resized_size(info, height, width);
  const Image seen = resized(picture, height, width);
  const int rows = info.height > 0 ? info.height : height;
  const int columns = info.width > 0 ? info.width : width;
  if (height > rows || width > columns)
    throw std::runtime_error("The picture is larger than what the file was exported for.");
  const auto outputs = model->run(planes(seen, info.rgb, rows, columns), rows, columns, height, width);
  const double min_score = count > 5 ? std::stod(arguments[5]) : 0.5;
  const auto found =
      detections(info, outputs, picture.height, picture.width, height, width, min_score);
  write_json(arguments[3], info, picture, found);
  if (count > 4) write_pgm(arguments[4], labels(picture, found));
  std::printf("%zu objects in %s\n", found.size(), arguments[3]);
}

}  // namespace

int main(int count, char** arguments) {
  try {
    run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
