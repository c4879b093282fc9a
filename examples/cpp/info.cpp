#include "info.h"

#include <algorithm>
#include <map>
#include <stdexcept>

namespace {

// As much of JSON as the description needs; other escapes than \uXXXX below 0x80 become '?'.
struct Json {
  std::map<std::string, Json> members;
  std::vector<Json> items;
  std::string text;  // of a string, or of a number, true, false or null
};

class Parser {
 public:
  explicit Parser(const std::string& source) : source_(source) {}

  Json value() {
    Json result;
    if (next() == '{') {
      take();
      while (next() != '}') {
        const std::string name = string();
        expect(':');
        result.members.emplace(name, value());
        if (next() == ',') take();
      }
      take();
    } else if (next() == '[') {
      take();
      while (next() != ']') {
        result.items.push_back(value());
        if (next() == ',') take();
      }
      take();
    } else if (next() == '"') {
      result.text = string();
    } else {
      while (place_ < source_.size() && std::string(",]} \n").find(source_[place_]) == std::string::npos)
        result.text += source_[place_++];
      if (result.text.empty()) throw std::runtime_error("The description in the file is no JSON.");
    }
    return result;
  }

 private:
  char next() {
    while (place_ < source_.size() && std::isspace(static_cast<unsigned char>(source_[place_])))
      ++place_;
    if (place_ >= source_.size())
      throw std::runtime_error("The file was not written by `detectron2 export`.");
    return source_[place_];
  }

  char take() {
    next();
    return source_[place_++];
  }

  void expect(char wanted) {
    if (take() != wanted) throw std::runtime_error("The description in the file is no JSON.");
  }

  std::string string() {
    expect('"');
    std::string text;
    while (place_ < source_.size() && source_[place_] != '"') {
      char letter = source_[place_++];
      if (letter == '\\') letter = escaped();
      text += letter;
    }
    expect('"');
    return text;
  }

  char escaped() {
    const char kind = source_[place_++];
    if (kind == 'n') return '\n';
    if (kind == 't') return '\t';
    if (kind != 'u') return kind;
    const int code = std::stoi(source_.substr(place_, 4), nullptr, 16);
    place_ += 4;
    return code < 0x80 ? static_cast<char>(code) : '?';
  }

  const std::string& source_;
  size_t place_ = 0;
};

int number(const Json& from, const std::string& name) {
  const auto found = from.members.find(name);
  return found == from.members.end() || found->second.text == "null" || found->second.text.empty()
             ? 0
             : std::stoi(found->second.text);
}

std::vector<std::string> texts(const Json& from, const std::string& name) {
  std::vector<std::string> result;
  if (const auto found = from.members.find(name); found != from.members.end())
    for (const Json& each : found->second.items) result.push_back(each.text);
  return result;
}

}  // namespace

Info parse_info(const std::string& json) {
  const Json root = Parser(json).value();
  Info info;
  info.outputs = texts(root, "outputs");
  info.classes = texts(root.members.at("classes"), "thing_classes");
  info.rgb = root.members.at("input_format").text == "RGB";
  info.shortest_edge = number(root, "shortest_edge");
  info.longest_edge = number(root, "longest_edge");
  if (const auto& size = root.members.at("image_size").items; size.size() == 2) {
    info.height = std::stoi(size[0].text);
    info.width = std::stoi(size[1].text);
  }
  if (const auto mean = root.members.find("pixel_mean");
      (mean != root.members.end() && !mean->second.items.empty()) ||
      root.members.at("postprocess").text != "out")
    throw std::runtime_error("This program runs files of --preprocess in --postprocess out.");
  if (number(root, "batch") > 1)
    throw std::runtime_error("The file takes batches; export with --batch dynamic or 1.");
  return info;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (char letter : text) {
    if (letter == '"' || letter == '\\') result += '\\';
    result += static_cast<unsigned char>(letter) < 0x20 ? ' ' : letter;
  }
  return result + "\"";
}

void resized_size(const Info& info, int& height, int& width) {
  if (info.shortest_edge == 0) return;
  // The products of `ResizeShortestEdge`, in its order: sizes round to the same integers.
  const double scale = info.shortest_edge / static_cast<double>(std::min(height, width));
  double rows = scale * height, columns = scale * width;
  const double longest = std::max(rows, columns);
  if (info.longest_edge > 0 && longest > info.longest_edge) {
    rows *= info.longest_edge / longest;
    columns *= info.longest_edge / longest;
  }
  height = std::max(1, static_cast<int>(rows + 0.5));
  width = std::max(1, static_cast<int>(columns + 0.5));
}
