/// Drive a robot with an exported policy, in C++17.  Needs onnxruntime's C++ API alone: copy this file to the robot.
///
///     ballbot::Controller controller("policy.onnx");
///     ballbot::Sensors sensors;                        // refill it every 2 ms: orientation, angular velocity, ...
///     const std::vector<double>& torques = controller.act(sensors);         // N m; zeros unless it is safe to drive
///     controller.see(depth.data(), depth.size());      // with each image, for policies that see
///
/// It is runtime.py again: same observations, same states, same torques.  docs/deployment.md is the contract: units,
/// axes, rates, limits.  main.cpp beside this file is a loop to fill in.
///
/// Real time: the constructor reads, checks and allocates, and throws ballbot::Error.  After it, act(), see() and
/// reset() throw nothing, take no lock and allocate nothing but what onnxruntime's Run() does inside, on the calling
/// thread.  Call them from one thread.  The contract is read by a small JSON reader below, so that onnxruntime stays
/// the only library needed.

#ifndef BALLBOT_RUNTIME_HPP
#define BALLBOT_RUNTIME_HPP

#if __has_include(<onnxruntime_cxx_api.h>)
#include <onnxruntime_cxx_api.h>
#elif __has_include(<onnxruntime/onnxruntime_cxx_api.h>)
#include <onnxruntime/onnxruntime_cxx_api.h>
#else
#error \
    "onnxruntime's C++ headers are missing: apt install libonnxruntime-dev, or unpack its release and add -I.../include"
#endif

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <locale>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ballbot {

/// A policy that cannot be driven, and what to do: from the constructor of Controller alone.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What the last call of act() found; see "When something is missing" in docs/deployment.md.
enum class Status {
  ok,             ///< the policy drives
  no_image,       ///< none yet, and the policy sees: zeros
  stale_image,    ///< the latest images are too old: the policy drives on, bring the robot to a stand
  no_command,     ///< none was given yet: zeros
  no_position,    ///< none was given yet: zeros
  sensors_held,   ///< a value is missing or impossible for some steps: the policy drives by the last good ones
  sensors_lost,   ///< the same for longer: zeros, after 0.1 s until reset()
  fallen,         ///< tilt above the limit: zeros until reset()
  policy_failed,  ///< the graph failed, or gave numbers that are not finite: zeros
};

/// "ok", "no image", ...: the words of runtime.py.
inline const char* to_string(Status status) noexcept {
  constexpr const char* words[] = {"ok",           "no image",     "stale image", "no command",   "no position",
                                   "sensors held", "sensors lost", "fallen",      "policy failed"};
  return words[static_cast<std::size_t>(status)];
}

/// Up to Capacity numbers, kept in place; none are given at first.
template <std::size_t Capacity>
class Numbers {
 public:
  Numbers() { values_.fill(std::numeric_limits<double>::quiet_NaN()); }
  Numbers(std::initializer_list<double> values) : Numbers() { assign(values.begin(), values.size()); }
  template <class Array, class = decltype(std::declval<const Array&>().data())>
  Numbers(const Array& values) : Numbers() {
    assign(values.data(), values.size());
  }

  /// Copies them.  More than Capacity are of the wrong size, which act() tells as a fault.
  template <class T>
  void assign(const T* values, std::size_t size) {
    std::copy_n(values, std::min(size, Capacity), values_.begin());
    size_ = size;
    given_ = true;
  }
  void reset() noexcept { *this = Numbers(); }
  bool given() const noexcept { return given_; }
  std::size_t size() const noexcept { return size_; }
  double operator[](std::size_t i) const noexcept { return values_[i]; }
  const double* data() const noexcept { return values_.data(); }

 private:
  std::array<double, Capacity> values_;
  std::size_t size_ = 0;
  bool given_ = false;
};

/// What the robot measures at one time, and what it is to do.  What is not given counts as missing.
struct Sensors {
  Numbers<4> orientation;       ///< unit quaternion, w first: base to world, whose z is up
  Numbers<3> angular_velocity;  ///< rad/s, of the base, along its own axes (a gyroscope's)
  Numbers<3> velocity;          ///< m/s, of the base's origin, along the world's axes; see needs_velocity()
  Numbers<8> wheel_speeds;      ///< rad/s about the wheels' axles, in the order of the torques
  Numbers<2> goal;              ///< unit vector of the direction of travel, world x and y; of policies told a goal
  Numbers<64> command;  ///< of the others: m/s ahead, m/s to the left, rad/s; a place x, y or a path x, y, ..., m
  Numbers<2> position;  ///< m, x and y of the base's origin in the world; see needs_position()
  Numbers<32> own;      ///< whatever readers of your own read, kept with the rest while sensors are held
};

class Controller;

/// Writes the numbers of an observation's field, `size` of them, by sensors and controller.
using Reader = std::function<void(const Sensors&, const Controller&, double* out, std::size_t size)>;

struct Options {
  std::string robot = {};    ///< name of the robot that this program drives; others' policies are refused
  std::string command = {};  ///< "goal", "velocity", "point" or "path", likewise
  std::string action = "torque";  ///< what the motors take, "torque", "wheel_speed" or "wheel_position", likewise
  std::map<std::string, Reader> readers = {};  ///< of fields that are your own, by name
  int num_threads = 1;                         ///< of onnxruntime; networks this small need one
};

namespace detail {

constexpr double wheel_speed_scale = 10.0;  // rad/s per unit of observation
constexpr double clip = 2.0;                // largest velocity in observations along the world's axes
constexpr double point_range = 2.0;         // m: what is farther away is observed as far away as this
constexpr double largest_command = 1e5;     // in its unit: a larger number is a fault

using Vector3 = std::array<double, 3>;
using Matrix3 = std::array<Vector3, 3>;

/// JSON (RFC 8259), of text that a checksum protects.
struct Json {
  enum class Kind { null, boolean, number, string, array, object } kind = Kind::null;
  double value = 0.0;  // of a number, or 1 for true
  std::string text;
  std::vector<std::string> keys;  // of an object, in the order of its items
  std::vector<Json> items;

  const Json* find(const std::string& key) const {
    const auto found = std::find(keys.begin(), keys.end(), key);
    if (found == keys.end()) return nullptr;
    const Json& item = items[static_cast<std::size_t>(found - keys.begin())];
    return item.kind == Kind::null ? nullptr : &item;
  }
  const Json& operator[](const std::string& key) const {
    if (const Json* item = find(key)) return *item;
    throw Error("its contract does not say '" + key + "': export the policy again");
  }
  const Json& of(Kind wanted) const {
    if (kind != wanted) throw Error("its contract has a value of the wrong kind: export the policy again");
    return *this;
  }
  double number() const { return of(Kind::number).value; }
  const std::string& string() const { return of(Kind::string).text; }
  std::vector<double> numbers() const {
    std::vector<double> found;
    for (const Json& item : of(Kind::array).items) found.push_back(item.number());
    return found;
  }
  std::size_t count() const {
    const double n = number();
    if (!(n >= 0 && n <= 1e7) || n != std::floor(n))
      throw Error("its contract has a wrong size: export the policy again");
    return static_cast<std::size_t>(n);
  }
};

class JsonReader {
 public:
  static Json read(const std::string& text) {
    JsonReader reader(text);
    Json found = reader.value(0);
    if (reader.peek() != '\0' || reader.at_ != text.size()) reader.fail();
    return found;
  }

 private:
  explicit JsonReader(const std::string& text) : text_(text) {}
  [[noreturn]] void fail() const { throw Error("its contract is damaged at byte " + std::to_string(at_)); }
  char peek() {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void take(const std::string& word) {
    if (text_.compare(at_, word.size(), word) != 0) fail();
    at_ += word.size();
  }
  Json value(int depth) {
    using Kind = Json::Kind;
    const char c = peek();
    Json found;
    if (depth > 64) fail();
    if (c == '{' || c == '[') {
      const char end = c == '{' ? '}' : ']';
      found.kind = c == '{' ? Kind::object : Kind::array;
      ++at_;
      for (bool first = true; peek() != end; first = false) {
        if (!first) take(",");
        if (c == '{') {
          peek();
          found.keys.push_back(quoted());
          peek();
          take(":");
        }
        found.items.push_back(value(depth + 1));
      }
      ++at_;
    } else if (c == '"') {
      found.kind = Kind::string;
      found.text = quoted();
    } else if (c == 't' || c == 'f') {
      found.kind = Kind::boolean;
      found.value = c == 't';
      take(c == 't' ? "true" : "false");
    } else if (c == 'n') {
      take("null");
    } else {
      const std::size_t end = std::min(text_.find_first_not_of("+-.0123456789eE", at_), text_.size());
      std::istringstream in(text_.substr(at_, end - at_));
      in.imbue(std::locale::classic());
      if (!(in >> found.value) || in.peek() != std::istringstream::traits_type::eof()) fail();
      found.kind = Kind::number;
      at_ = end;
    }
    return found;
  }
  std::string quoted() {
    std::string found;
    take("\"");
    for (;; ++at_) {
      if (at_ >= text_.size() || static_cast<unsigned char>(text_[at_]) < 0x20) fail();
      if (text_[at_] == '"') break;
      if (text_[at_] != '\\') {
        found += text_[at_];
        continue;
      }
      const std::size_t kind =
          at_ + 1 < text_.size() ? std::string("\"\\/bfnrtu").find(text_[at_ + 1]) : std::string::npos;
      if (kind == std::string::npos) fail();
      if (kind < 8) {
        found += "\"\\/\b\f\n\r\t"[kind];
        ++at_;
      } else {
        std::uint32_t code = unit();
        if (code >= 0xD800 && code < 0xDC00 && text_.compare(at_ + 1, 2, "\\u") == 0) {  // first half of a pair
          ++at_;
          code = 0x10000 + ((code - 0xD800) << 10) + ((unit() - 0xDC00) & 0x3FF);
        }
        append_utf8(found, code);
      }
    }
    ++at_;
    return found;
  }
  std::uint32_t unit() {  // of \uXXXX; ends at its last digit
    if (at_ + 5 >= text_.size()) fail();
    const std::string digits = text_.substr(at_ + 2, 4);
    if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) fail();
    at_ += 5;
    return static_cast<std::uint32_t>(std::stoul(digits, nullptr, 16));
  }
  static void append_utf8(std::string& to, std::uint32_t code) {
    if (code < 0x80) {
      to += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    to += static_cast<char>((0xF00u >> (more + 1) & 0xFFu) | code >> 6 * more);
    for (int i = more - 1; i >= 0; --i) to += static_cast<char>(0x80 | (code >> 6 * i & 0x3F));
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

/// An error's text on one line.
inline std::string one_line(const std::exception& error) {
  std::string text = error.what();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

/// The SHA-256 (FIPS 180-4) of a text, in hexadecimal.
inline std::string sha256(std::string text) {
  // the first 32 bits of the fractions of the roots of primes, as the standard defines them
  const auto fraction = [](double root) {
    return static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0);
  };
  std::array<std::uint32_t, 64> k{};
  std::array<std::uint32_t, 8> h{};
  for (unsigned n = 2, found = 0; found < 64; ++n) {
    bool prime = true;
    for (unsigned d = 2; d * d <= n; ++d) prime = prime && n % d;
    if (!prime) continue;
    if (found < 8) h[found] = fraction(std::sqrt(static_cast<double>(n)));
    k[found++] = fraction(std::cbrt(static_cast<double>(n)));
  }
  const std::uint64_t bits = 8 * static_cast<std::uint64_t>(text.size());
  text += '\x80';
  text.append((120 - text.size() % 64) % 64, '\0');
  for (int i = 56; i >= 0; i -= 8) text += static_cast<char>(bits >> i & 0xFF);
  const auto turned = [](std::uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (std::size_t block = 0; block < text.size(); block += 64) {
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 64; ++i) w[i / 4] |= std::uint32_t(std::uint8_t(text[block + i])) << (24 - 8 * (i % 4));
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] + (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    std::array<std::uint32_t, 8> s = h;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t e = s[4], a = s[0];
      const std::uint32_t x =
          s[7] + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
      const std::uint32_t y =
          (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
      s = {x + y, s[0], s[1], s[2], s[3] + x, s[4], s[5], s[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) h[i] += s[i];
  }
  std::string found;
  for (const std::uint32_t x : h) {
    for (int i = 28; i >= 0; i -= 4) found += "0123456789abcdef"[x >> i & 15];
  }
  return found;
}

/// From the base to the world, of a unit quaternion w, x, y, z.
inline Matrix3 rotation_matrix(const double* q) noexcept {
  const double w = q[0], x = q[1], y = q[2], z = q[3];
  return {{{1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)},
           {2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)},
           {2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)}}};
}

inline double dot(const Vector3& a, const double* b) noexcept { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

/// A graph that runs on buffers of its own, and its contract.
class Graph {
 public:
  Graph(const std::string& path, const std::string& kind, const Ort::Env& env, int num_threads) {
    std::ifstream file(path, std::ios::binary);
    std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file.is_open()) {
      throw Error(path + " does not exist: export the policy with export_policy.py and keep its files together");
    }
    try {
      Ort::SessionOptions options;
      options.SetIntraOpNumThreads(num_threads);
      options.SetInterOpNumThreads(num_threads);
      session_ = std::make_unique<Ort::Session>(env, content.data(), content.size(), options);
      Ort::AllocatorWithDefaultOptions allocator;
      const auto found = session_->GetModelMetadata().LookupCustomMetadataMapAllocated("ballbot", allocator);
      if (!found) throw Error("it has no contract");
      text = found.get();
      contract = JsonReader::read(text);
    } catch (const std::exception& error) {
      throw Error(path + " is no policy that export_policy.py wrote (" + one_line(error) + ")");
    }
    const Json* said = contract.find("kind");
    if (!said || said->kind != Json::Kind::string || said->text != kind) {
      const std::string theirs = said && said->kind == Json::Kind::string ? said->text : "unknown";
      throw Error(path + " holds a graph of kind " + theirs + ", one of kind " + kind + " is needed here");
    }
    const Json* sum = contract.find("checksum");
    const std::string checksum = sum ? sum->text : "";
    for (std::size_t at = 0; checksum.size() == 64 && (at = content.find(checksum, at)) != std::string::npos;) {
      content.replace(at, 64, 64, '0');
    }
    if (checksum.empty() || sha256(std::move(content)) != checksum) {
      throw Error(path + " does not match its checksum: it was changed or damaged, copy or export it again");
    }
  }

  /// Buffers that are fed, and those that are filled, of these shapes, by name.
  void prepare(std::initializer_list<std::pair<const char*, std::vector<std::int64_t>>> in,
               std::initializer_list<std::pair<const char*, std::vector<std::int64_t>>> out) {
    for (const auto& [name, shape] : in) add(name, shape, in_names_, inputs, in_);
    for (const auto& [name, shape] : out) add(name, shape, out_names_, outputs, out_);
  }

  void run() {
    session_->Run(Ort::RunOptions{nullptr}, in_names_.data(), in_.data(), in_.size(), out_names_.data(), out_.data(),
                  out_.size());
  }

  Json contract;
  std::string text;  // of the contract
  std::vector<std::vector<float>> inputs, outputs;

 private:
  static void add(const char* name, const std::vector<std::int64_t>& shape, std::vector<const char*>& names,
                  std::vector<std::vector<float>>& buffers, std::vector<Ort::Value>& values) {
    std::int64_t size = 1;
    for (const std::int64_t n : shape) size *= n;
    names.push_back(name);
    buffers.emplace_back(static_cast<std::size_t>(size), 0.0f);  // moved with the vector, its numbers stay in place
    values.push_back(Ort::Value::CreateTensor<float>(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault),
                                                     buffers.back().data(), buffers.back().size(), shape.data(),
                                                     shape.size()));
  }

  std::unique_ptr<Ort::Session> session_;
  std::vector<const char*> in_names_, out_names_;
  std::vector<Ort::Value> in_, out_;
};

}  // namespace detail

/// An exported policy and what it must remember from step to step.
class Controller {
 public:
  /// Reads and checks the control graph at `path`; a policy that sees has its camera graph beside it.
  /// Throws Error: no exported policy or a damaged one, of another robot or command than the options say, its camera
  /// graph missing or another one, nothing reads one of its fields, or a library older than onnxruntime's headers.
  explicit Controller(const std::string& path, Options options = {});
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  /// Torques about the wheels' axles, N m, for the next period(); zeros when it is not safe to drive, see status().
  /// Call it every period(): images age and the past goes on by calls.
  const std::vector<double>& act(const Sensors& sensors) noexcept;

  /// Takes new images: depth along the optical axis, m, all cameras' one after the other, each row by row from the top;
  /// `count` numbers, cameras() * height() * width().  What is too far, or NaN (no echo), counts as the largest depth.
  /// `age`: s since they were taken.  Returns nullptr, or what is wrong; then the images before stay.
  const char* see(const float* depth, std::size_t count, double age = 0.0) noexcept;

  /// Forgets the past, a fall and images too: before the robot drives again.
  void reset() noexcept;

  Status status() const noexcept { return status_; }                             ///< of the last act()
  bool stopped() const noexcept { return off_ != Status::ok; }                   ///< torques stay zero until reset()
  const std::vector<double>& torques() const noexcept { return torques_; }       ///< of the last act(), N m (rad/s)
  double period() const noexcept { return period_; }                             ///< s between calls of act()
  std::size_t wheels() const noexcept { return wheels_; }                        ///< how many torques and wheel speeds
  double torque_limit() const noexcept { return std::abs(per_action_); }         ///< N m (rad/s), the largest torque
  const std::string& robot() const noexcept { return robot_; }           ///< name of the robot; "" if it does not say
  const std::string& command() const noexcept { return kind_; }          ///< kind: "goal", "velocity", "point", "path"
  bool needs_velocity() const noexcept { return !estimates_velocity_; }  ///< else wheels and gyroscope tell it
  bool needs_position() const noexcept { return needs_position_; }
  bool sees() const noexcept { return camera_ != nullptr; }
  std::size_t cameras() const noexcept { return images_[0]; }
  std::size_t height() const noexcept { return images_[1]; }        ///< pixels
  std::size_t width() const noexcept { return images_[2]; }         ///< pixels
  double camera_period() const noexcept { return camera_period_; }  ///< s between two calls of see() in training
  double image_age() const noexcept { return std::min(age_, longest_age_); }  ///< s, at most as much as in training
  const std::string& contract() const noexcept { return control_->text; }  ///< JSON, all that the graph says of itself
  const std::vector<float>& observation() const noexcept { return control_->inputs[0]; }  ///< of the last step driven
  const detail::Matrix3& rotation() const noexcept { return rotation_; }  ///< base to world, of what is observed

 private:
  using Vector3 = detail::Vector3;

  struct Field {
    std::string name;
    std::size_t at, size;    // in the observation
    Reader read;             // of a field of now
    std::size_t origin = 0;  // of a field of the past: where the field is that it is of,
    std::size_t steps = 0;   // how many steps ago,
    bool change = false;     // and whether it is what has changed since
    bool image = false;
  };

  void read_contract(const std::string& path, const Options& options);
  void read_fields(const std::string& path, const Options& options);
  std::map<std::string, std::pair<std::size_t, Reader>> readers() const;
  bool check(const Sensors& sensors) noexcept;
  void observe();
  void face(Sensors& sensors) const noexcept;
  void estimate_velocity(Sensors& sensors) noexcept;
  void follow(const Sensors& sensors) noexcept;
  void remember(const double* numbers) noexcept;
  void way_to(const double* place, const Sensors& sensors, double* out) const noexcept;
  const double* point(std::size_t ahead) const noexcept {
    return told_.data() + 2 * std::min(index_ + ahead, told_.size() / 2 - 1);
  }

  Ort::Env env_{ORT_LOGGING_LEVEL_FATAL, "ballbot"};  // what goes wrong comes as an exception
  std::unique_ptr<detail::Graph> control_, camera_;

  // of the contract
  double period_ = 0.002, per_action_ = 0, lowest_up_ = 0, lost_after_ = 0;
  std::size_t longest_hold_ = 0, wheels_ = 3;
  std::string robot_, kind_;
  bool world_frame_ = false, needs_position_ = false, estimates_velocity_ = false, follows_path_ = false;
  std::array<double, 2> trained_goal_{};
  std::size_t command_size_ = 0;
  double radius_ = -1, settling_ = -1, still_ = 0, max_speed_ = -1;  // -1: has none
  std::array<double, 2> yaw_range_{};
  std::array<std::size_t, 3> images_{};
  double max_depth_ = 0, longest_age_ = 0, stale_after_ = 0, camera_period_ = 0;
  std::vector<double> turn_;  // of the estimated velocity: (2, wheels), row by row
  double arm_ = 0, percussion_ = 0, pull_ = 0, share_ = 0, settle_ = 0, most_ = 0;
  std::vector<Field> fields_;

  // what it remembers
  Status status_ = Status::ok, off_ = Status::ok;  // off: in which the robot stays until reset(), ok if in none
  std::vector<double> torques_, now_, past_;       // the past: a ring of what was observed
  std::vector<float> last_action_, memory_, embeddings_;
  std::size_t past_depth_ = 0, past_count_ = 0, past_end_ = 0, held_ = 0;
  Sensors good_;
  bool had_good_ = false, has_images_ = false, has_steady_ = false, has_told_ = false;
  double age_ = 0;
  detail::Matrix3 rotation_{};
  std::array<double, 2> steady_{}, balance_{}, station_{};
  Numbers<64> told_;
  std::size_t told_steps_ = 0, index_ = 0;
};

inline Controller::Controller(const std::string& path, Options options) {
  if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
    throw Error(std::string("libonnxruntime ") + OrtGetApiBase()->GetVersionString() +
                " is older than its headers (1." + std::to_string(ORT_API_VERSION) + "): use both of one version");
  }
  control_ = std::make_unique<detail::Graph>(path, "control", env_, options.num_threads);
  try {
    read_contract(path, options);
    read_fields(path, options);
  } catch (const Error& error) {
    const std::string what = error.what();
    throw what.compare(0, 4, "its ") == 0 ? Error(path + ": " + what) : error;
  }
  const auto size = static_cast<std::int64_t>(now_.size()), wheels = static_cast<std::int64_t>(wheels_);
  control_->prepare({{"observation", {1, size}}}, {{"action", {1, wheels}}});
  if (const detail::Json* memory = control_->contract.find("memory")) {
    std::vector<std::int64_t> shape{1};
    const std::vector<detail::Json>& said = (*memory)["shape"].items;
    for (std::size_t i = 1; i < said.size(); ++i) shape.push_back(static_cast<std::int64_t>(said[i].count()));
    control_->prepare({{"memory", shape}}, {{"next_memory", shape}});
    memory_.resize(control_->inputs[1].size());
  }
  const auto finite = [](const std::vector<float>& x) {
    return std::all_of(x.begin(), x.end(), [](float y) { return std::isfinite(y); });
  };
  try {  // the first run takes longer, and a damaged policy shows before the robot moves
    control_->run();
    if (camera_) camera_->run();
  } catch (const Ort::Exception& error) {
    throw Error(path + " does not run (" + detail::one_line(error) + "): export the policy again");
  }
  if (!finite(control_->outputs[0]) || (camera_ && !finite(camera_->outputs[0]))) {
    throw Error(path + " gives numbers that are not finite: export another checkpoint");
  }
  reset();
}

inline void Controller::read_contract(const std::string& path, const Options& options) {
  using detail::Json;
  const Json& said = control_->contract;
  const Json* command = said.find("command");
  const Json* robot = said.find("robot");
  kind_ = command ? (*command)["kind"].string() : "goal";
  robot_ = robot ? (*robot)["name"].string() : "";
  if (!options.robot.empty() && options.robot != robot_) {
    throw Error(path + " was trained for the robot '" + robot_ + "', this program drives '" + options.robot + "'");
  }
  if (!options.command.empty() && options.command != kind_) {
    throw Error(path + " is told a " + kind_ + ", this program gives a " + options.command +
                ": export a policy that was trained with --command " + options.command);
  }
  period_ = said["period"].number();
  const Json* asked = said.find("action");
  const std::string action = asked ? asked->string() : "torque";
  if (options.action != action) {
    throw Error(path + " asks motors for " + action + ", this program gives them " + options.action +
                ": motors that take the other, and Options::action, or a policy that was trained with --action " +
                options.action);
  }
  per_action_ = said[action + "_per_action"].number();
  lowest_up_ = std::cos(said["tilt_limit_deg"].number() * (3.14159265358979323846 / 180.0));
  longest_hold_ = said["longest_hold"].count();
  lost_after_ = said["lost_after"].number();
  if (const Json* output = said.find("output")) wheels_ = (*output)["size"].count();
  if (wheels_ < 1 || wheels_ > 8)
    throw Error(path + " is for " + std::to_string(wheels_) + " wheels, 8 are the most here");
  world_frame_ = said["frame"].string() == "world";
  if (world_frame_ && kind_ == "goal") {
    const std::vector<double> goal = said["goal"].numbers();
    if (goal.size() != 2) throw Error("its contract has a wrong goal: export the policy again");
    std::copy(goal.begin(), goal.end(), trained_goal_.begin());
  }
  if (command && kind_ != "goal") {
    const auto number = [&](const char* name, double otherwise) {
      const Json* found = command->find(name);
      return found ? found->number() : otherwise;
    };
    command_size_ = (*command)["size"].count();
    if (command_size_ > 64) throw Error(path + " takes a command of more than 64 numbers, the most here");
    follows_path_ = command->find("points") != nullptr;
    radius_ = number("radius", -1);
    settling_ = number("settling", -1);
    still_ = number("still", 0);
    max_speed_ = number("max_speed", -1);
    if (max_speed_ >= 0) {
      const std::vector<Json>& range = (*command)["range"].items;
      const std::vector<double> yaw = range.size() == 3 ? range[2].numbers() : std::vector<double>{};
      if (yaw.size() != 2) throw Error("its contract has a wrong range: export the policy again");
      std::copy(yaw.begin(), yaw.end(), yaw_range_.begin());
    }
  }
  if (const Json* how = said.find("velocity")) {
    estimates_velocity_ = true;
    for (const Json& row : (*how)["turn"].items) {
      for (const double x : row.numbers()) turn_.push_back(x);
    }
    if (turn_.size() != 2 * wheels_)
      throw Error("its contract estimates the velocity of another robot: export it again");
    arm_ = (*how)["arm"].number();
    percussion_ = (*how)["percussion"].number();
    pull_ = (*how)["pull"].number();
    share_ = (*how)["share"].number();
    settle_ = (*how)["settle"].number();
    most_ = (*how)["most"].number();
  }
  if (const Json* camera = said.find("camera")) {
    const std::size_t slash = path.find_last_of("/\\");
    const std::string beside = path.substr(0, slash == std::string::npos ? 0 : slash + 1) + (*camera)["graph"].string();
    camera_ = std::make_unique<detail::Graph>(beside, "camera", env_, options.num_threads);
    const std::string theirs = camera_->contract["encoder"].string(), ours = (*camera)["encoder"].string();
    if (theirs != ours) {
      throw Error(beside + " holds the encoder " + theirs.substr(0, 16) + ", " + path + " was trained with " +
                  ours.substr(0, 16) + ": export both together");
    }
    const std::vector<Json>& shape = (*camera)["shape"].items;
    if (shape.size() != 3) throw Error("its contract has a wrong shape of images: export the policy again");
    std::vector<std::int64_t> n;
    for (std::size_t i = 0; i < 3; ++i) n.push_back(static_cast<std::int64_t>(images_[i] = shape[i].count()));
    const auto size = static_cast<std::int64_t>(camera_->contract["output"]["size"].count());
    camera_->prepare({{"depth", {n[0], 1, n[1], n[2]}}}, {{"embedding", {n[0], size}}});
    embeddings_.resize(camera_->outputs[0].size());
    max_depth_ = (*camera)["max_depth"].number();
    longest_age_ = (*camera)["longest_age"].number();
    stale_after_ = (*camera)["stale_after"].number();
    camera_period_ = (*camera)["period"].number();
  }
}

inline void Controller::read_fields(const std::string& path, const Options& options) {
  auto known = readers();
  for (const auto& [name, reader] : options.readers) known[name] = {0, reader};
  std::vector<std::string> first = {"gravity", "gyro", "velocity", "goal", "wheel_speeds", "last_action"};  // of 0.1
  if (world_frame_) first = {"orientation", "clipped_gyro", "world_velocity", "clipped_wheel_speeds", "last_action"};
  for (std::size_t i = 0; i < images_[0]; ++i) first.push_back("image_" + std::to_string(i));
  if (camera_) first.push_back("image_age");
  std::size_t at = 0, embedded = 0;
  for (const detail::Json& said : control_->contract["input"]["fields"].items) {
    const detail::Json* named = said.find("field");
    if (!named && fields_.size() >= first.size()) throw Error("its contract does not name its fields: export it again");
    Field field{named ? named->string() : first[fields_.size()], at, said["size"].count(), nullptr};
    const std::size_t sign = field.name.find_last_of("@-");
    const std::string digits = sign == std::string::npos ? "" : field.name.substr(sign + 1);
    std::string what = field.name;
    if (const auto found = known.find(field.name); found != known.end()) {
      field.read = found->second.second;
      if (found->second.first && found->second.first != field.size) {
        throw Error(path + " observes " + std::to_string(field.size) + " numbers as '" + field.name + "', it has " +
                    std::to_string(found->second.first) + ": export the policy again");
      }
      const bool mine = options.readers.count(field.name) == 0;
      needs_position_ |= mine && (what == "station" || what == "target" || what == "next_target");
    } else if (sign && !digits.empty() && digits.size() < 6 &&
               digits.find_first_not_of("0123456789") == std::string::npos) {
      what = field.name.substr(0, sign);
      field.steps = std::stoul(digits);
      field.change = field.name[sign] == '-';
      const auto origin = std::find_if(fields_.begin(), fields_.end(), [&](const Field& f) { return f.name == what; });
      if (origin == fields_.end() || origin->size != field.size || field.steps == 0) {
        throw Error(path + " observes '" + field.name + "' without '" + what + "' before it: export the policy again");
      }
      field.origin = origin->at;
      past_depth_ = std::max(past_depth_, field.steps);
    } else if (field.name.compare(0, 6, "image_") == 0 && camera_) {
      field.image = true;
      embedded += field.size;
    } else {
      throw Error(path + " observes '" + what + "', which this controller cannot read: hand in a function of sensors " +
                  "and controller, options.readers[\"" + what + "\"] = ...");
    }
    at += field.size;
    fields_.push_back(std::move(field));
  }
  if (embedded != embeddings_.size())
    throw Error("its contract has other images than its camera graph: export it again");
  now_.resize(at);
  past_.resize(past_depth_ * at);
  torques_.resize(wheels_);
  last_action_.resize(wheels_);
}

inline std::map<std::string, std::pair<std::size_t, Reader>> Controller::readers() const {
  using C = const Controller&;
  using S = const Sensors&;
  const auto clipped = [](double x) { return std::clamp(x, -detail::clip, detail::clip); };
  const auto copy = [](const double* from, double* to, std::size_t size) { std::copy_n(from, size, to); };
  std::map<std::string, std::pair<std::size_t, Reader>> all = {
      {"gravity",
       {3,
        [](S, C c, double* out, std::size_t) {
          for (std::size_t i = 0; i < 3; ++i) out[i] = -c.rotation_[2][i];
        }}},
      {"gyro", {3, [copy](S s, C, double* out, std::size_t size) { copy(s.angular_velocity.data(), out, size); }}},
      {"velocity",
       {3,
        [](S s, C c, double* out, std::size_t) {
          for (std::size_t i = 0; i < 3; ++i) {
            out[i] = c.rotation_[0][i] * s.velocity[0] + c.rotation_[1][i] * s.velocity[1] +
                     c.rotation_[2][i] * s.velocity[2];
          }
        }}},
      {"goal",
       {2,
        [](S s, C c, double* out, std::size_t) {
          for (std::size_t i = 0; i < 2; ++i) out[i] = c.rotation_[0][i] * s.goal[0] + c.rotation_[1][i] * s.goal[1];
        }}},
      {"wheel_speeds",
       {wheels_,
        [](S s, C, double* out, std::size_t size) {
          for (std::size_t i = 0; i < size; ++i) out[i] = s.wheel_speeds[i] / detail::wheel_speed_scale;
        }}},
      {"last_action",
       {wheels_, [](S, C c, double* out, std::size_t size) { std::copy_n(c.last_action_.data(), size, out); }}},
      {"orientation",
       {3,
        [](S s, C, double* out, std::size_t) {  // rotation vector, rad
          const double* q = s.orientation.data();
          const double sine = std::sqrt(q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
          const double angle = 2 * std::atan2(sine, std::abs(q[0]));
          for (std::size_t i = 0; i < 3; ++i)
            out[i] = q[i + 1] * (q[0] < 0 ? -1.0 : 1.0) * (sine > 1e-12 ? angle / sine : 2.0);
        }}},
      {"clipped_gyro",
       {3,
        [clipped](S s, C, double* out, std::size_t) {
          for (std::size_t i = 0; i < 3; ++i) out[i] = clipped(s.angular_velocity[i]);
        }}},
      {"world_velocity",
       {3,
        [clipped](S s, C, double* out, std::size_t) {
          for (std::size_t i = 0; i < 3; ++i) out[i] = clipped(s.velocity[i]);
        }}},
      {"clipped_wheel_speeds",
       {wheels_,
        [clipped](S s, C, double* out, std::size_t size) {
          for (std::size_t i = 0; i < size; ++i) out[i] = clipped(s.wheel_speeds[i] / detail::wheel_speed_scale);
        }}},
      {"yaw_rate",
       {1,
        [](S s, C c, double* out, std::size_t) { out[0] = detail::dot(c.rotation_[2], s.angular_velocity.data()); }}},
  };
  if (camera_) {
    all["image_age"] = {1, [](S, C c, double* out, std::size_t) { out[0] = c.image_age(); }};
  }
  if (kind_ != "goal") {
    all["velocity_command"] = {3, [](S, C c, double* out, std::size_t) {
                                 std::copy_n(c.told_.data(), 3, out);
                                 if (c.max_speed_ >= 0) {  // it has never been asked for more
                                   const double share =
                                       std::min(c.max_speed_ / std::max(std::hypot(out[0], out[1]), 1e-9), 1.0);
                                   out[0] *= share;
                                   out[1] *= share;
                                   out[2] = std::clamp(out[2], c.yaw_range_[0], c.yaw_range_[1]);
                                 }
                               }};
    all["station"] = {2, [](S s, C c, double* out, std::size_t) { c.way_to(c.station_.data(), s, out); }};
    all["target"] = {2, [](S s, C c, double* out, std::size_t) { c.way_to(c.point(0), s, out); }};
    all["next_target"] = {2, [](S s, C c, double* out, std::size_t) { c.way_to(c.point(1), s, out); }};
  }
  return all;
}

inline void Controller::reset() noexcept {
  status_ = off_ = Status::ok;
  std::fill(torques_.begin(), torques_.end(), 0.0);
  std::fill(last_action_.begin(), last_action_.end(), 0.0f);
  std::fill(memory_.begin(), memory_.end(), 0.0f);
  past_count_ = past_end_ = held_ = told_steps_ = index_ = 0;
  good_ = Sensors();
  had_good_ = has_images_ = has_steady_ = has_told_ = false;
  age_ = 0.0;
  rotation_ = {{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
  steady_ = balance_ = station_ = {};
  told_.reset();
}

inline const char* Controller::see(const float* depth, std::size_t count, double age) noexcept {
  if (!camera_) return "this policy was trained without cameras: do not call see()";
  if (count != images_[0] * images_[1] * images_[2]) return "images have another size than this policy takes";
  if (!(age >= 0.0 && std::isfinite(age))) return "the age of images must be the s since they were taken, 0 or more";
  const auto most = static_cast<float>(max_depth_);
  std::transform(depth, depth + count, camera_->inputs[0].begin(),
                 [most](float x) { return std::isnan(x) ? most : std::clamp(x, 0.0f, most); });
  try {
    camera_->run();
  } catch (...) {
    return "the camera graph failed";
  }
  std::copy(camera_->outputs[0].begin(), camera_->outputs[0].end(), embeddings_.begin());
  has_images_ = true;
  age_ = age;
  return nullptr;
}

inline const std::vector<double>& Controller::act(const Sensors& sensors) noexcept {
  bool drives = check(sensors);
  if (drives) {
    bool sound = true;
    const auto finite = [&sound](float x) { sound = sound && std::isfinite(x); };
    try {
      observe();
      if (!memory_.empty()) std::copy(memory_.begin(), memory_.end(), control_->inputs[1].begin());
      control_->run();
      std::for_each(control_->inputs[0].begin(), control_->inputs[0].end(), finite);
      for (const std::vector<float>& out : control_->outputs) std::for_each(out.begin(), out.end(), finite);
    } catch (...) {  // of onnxruntime, or of a reader of your own
      sound = false;
    }
    if (sound) {
      std::copy_n(control_->outputs[0].begin(), wheels_, last_action_.begin());
      if (!memory_.empty()) std::copy(control_->outputs[1].begin(), control_->outputs[1].end(), memory_.begin());
      remember(now_.data());
    } else {
      status_ = Status::policy_failed;
      drives = false;
    }
  }
  if (!drives) {
    std::fill(last_action_.begin(), last_action_.end(), 0.0f);
    if (past_count_) {  // time passes, and nothing better is known
      remember(past_.data() + (past_end_ + past_depth_ - 1) % past_depth_ * now_.size());
    }
  }
  age_ += period_;  // of the images, whether the robot drives or not
  for (std::size_t i = 0; i < wheels_; ++i) torques_[i] = per_action_ * static_cast<double>(last_action_[i]);
  return torques_;
}

/// Whether to act, on good_; sets the status.
inline bool Controller::check(const Sensors& s) noexcept {
  const auto plausible = [](const auto& numbers, std::size_t size, double most) {
    if (numbers.size() != size) return false;
    return std::all_of(numbers.data(), numbers.data() + size, [most](double x) { return std::abs(x) <= most; });
  };
  const auto unit = [&plausible](const auto& numbers, std::size_t size) {
    double square = 0.0;
    for (std::size_t i = 0; i < size; ++i) square += numbers[i] * numbers[i];
    return plausible(numbers, size, 1.1) && std::abs(std::sqrt(square) - 1.0) <= 1e-2;
  };
  const bool told_goal = kind_ == "goal";
  const std::size_t size = follows_path_ ? std::min(s.command.size(), command_size_) : command_size_;
  const bool whole = !follows_path_ || (size >= 2 && size % 2 == 0);
  const bool upright_known = unit(s.orientation, 4);
  const bool command = told_goal ? unit(s.goal, 2) : whole && plausible(s.command, size, detail::largest_command);
  const bool position = !needs_position_ || plausible(s.position, 2, 1e5);
  const bool motion = upright_known && plausible(s.angular_velocity, 3, 100.0) &&
                      (estimates_velocity_ || plausible(s.velocity, 3, 20.0)) &&
                      plausible(s.wheel_speeds, wheels_, 1000.0);
  const bool sound = motion && command && position;
  if (sound) {
    good_ = s;
    had_good_ = true;
    held_ = 0;
  } else {
    ++held_;
  }
  // Until reset(): who picks the robot up does not want it to drive.  It may fall without being seen to, too.
  if (upright_known &&
      1 - 2 * (s.orientation[1] * s.orientation[1] + s.orientation[2] * s.orientation[2]) < lowest_up_) {
    off_ = Status::fallen;
  } else if (had_good_ && static_cast<double>(held_) * period_ > lost_after_ && off_ == Status::ok) {
    off_ = Status::sensors_lost;
  }
  if (off_ != Status::ok || !had_good_ || held_ > longest_hold_) {
    const bool no_command = !told_goal && !s.command.given(), no_position = needs_position_ && !s.position.given();
    const bool alone = !had_good_ && motion && (command || no_command) && (position || no_position);
    status_ = off_ != Status::ok ? off_
              : !alone           ? Status::sensors_lost
              : no_command       ? Status::no_command
              : no_position      ? Status::no_position
                                 : Status::sensors_lost;
    return false;
  }
  if (camera_ && !has_images_) {
    status_ = Status::no_image;
    return false;
  }
  status_ = !sound ? Status::sensors_held : camera_ && age_ > stale_after_ ? Status::stale_image : Status::ok;
  return true;
}

/// Fills the observation: good_, what it is told, the last action, the past, and the latest images.
inline void Controller::observe() {
  Sensors s = good_;
  if (world_frame_ && kind_ == "goal") face(s);  // such a policy knows one goal only
  rotation_ = detail::rotation_matrix(s.orientation.data());
  if (estimates_velocity_) estimate_velocity(s);
  if (kind_ != "goal") follow(s);
  const float* embedding = embeddings_.data();
  for (const Field& field : fields_) {
    double* out = now_.data() + field.at;
    if (field.steps) {
      const double* origin = now_.data() + field.origin;
      const std::size_t back = std::min(field.steps, past_count_);
      const double* then = origin;
      if (back) then = past_.data() + (past_end_ + past_depth_ - back) % past_depth_ * now_.size() + field.origin;
      for (std::size_t i = 0; i < field.size; ++i) {
        out[i] =
            field.change ? static_cast<double>(static_cast<float>(origin[i]) - static_cast<float>(then[i])) : then[i];
      }
    } else if (field.image) {
      std::copy_n(embedding, field.size, out);
      embedding += field.size;
    } else {
      field.read(s, *this, out, field.size);
    }
  }
  std::transform(now_.begin(), now_.end(), control_->inputs[0].begin(), [](double x) { return static_cast<float>(x); });
}

inline void Controller::remember(const double* numbers) noexcept {
  if (!past_depth_) return;
  std::copy_n(numbers, now_.size(), past_.data() + past_end_ * now_.size());
  past_end_ = (past_end_ + 1) % past_depth_;
  past_count_ = std::min(past_count_ + 1, past_depth_);
}

/// Turns the world about the vertical until the goal is that of the training.
inline void Controller::face(Sensors& s) const noexcept {
  const double x = s.goal[0], y = s.goal[1], gx = trained_goal_[0], gy = trained_goal_[1];
  const double turn = std::atan2(x * gy - y * gx, x * gx + y * gy);
  const double a = std::cos(turn / 2), b = std::sin(turn / 2), c = std::cos(turn), d = std::sin(turn);
  const double w = s.orientation[0], i = s.orientation[1], j = s.orientation[2], k = s.orientation[3];
  s.orientation = {a * w - b * k, a * i - b * j, a * j + b * i, a * k + b * w};
  if (s.velocity.given()) {
    s.velocity = {c * s.velocity[0] - d * s.velocity[1], d * s.velocity[0] + c * s.velocity[1], s.velocity[2]};
  }
  s.goal = {gx, gy};
}

/// The velocity by wheels and gyroscope, as the contract says; a step later.
inline void Controller::estimate_velocity(Sensors& s) noexcept {
  const double* gyro = s.angular_velocity.data();
  const std::array<double, 2> leaning = {gyro[1], -gyro[0]}, down = {-rotation_[2][0], -rotation_[2][1]};
  std::array<double, 2> found{};
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < wheels_; ++j) found[i] += turn_[i * wheels_ + j] * s.wheel_speeds[j];
    found[i] += (arm_ + percussion_) * leaning[i];
  }
  if (!has_steady_) {
    has_steady_ = true;
    steady_ = found;
    if (settle_ != 0) balance_ = down;
  } else {
    const std::array<double, 2> turning = {gyro[2] * steady_[1], -gyro[2] * steady_[0]};
    for (std::size_t i = 0; i < 2; ++i) {
      const double expected = steady_[i] + period_ * (turning[i] + pull_ * (down[i] - balance_[i]));
      const double missing = found[i] - expected;
      steady_[i] = expected + share_ * missing;
      balance_[i] = std::clamp(balance_[i] - settle_ * missing, -most_, most_);
    }
  }
  if (settle_ != 0) {  // lean is told from where it balances
    const double w = s.orientation[0], x = s.orientation[1], y = s.orientation[2], z = s.orientation[3];
    const double a = balance_[1] / 2, b = -balance_[0] / 2;
    const std::array<double, 4> q = {w - x * a - y * b, x + w * a - z * b, y + w * b + z * a, z + x * b - y * a};
    const double length = std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    s.orientation = {q[0] / length, q[1] / length, q[2] / length, q[3] / length};
    rotation_ = detail::rotation_matrix(s.orientation.data());
  }
  const Vector3 along = {steady_[0] - percussion_ * leaning[0], steady_[1] - percussion_ * leaning[1], 0.0};
  s.velocity = {detail::dot(rotation_[0], along.data()), detail::dot(rotation_[1], along.data()),
                detail::dot(rotation_[2], along.data())};
}

/// What the robot is told now, and how far it has come with it.
inline void Controller::follow(const Sensors& s) noexcept {
  const std::size_t size = s.command.size();
  const bool same =
      has_told_ && told_.size() == size && std::equal(told_.data(), told_.data() + size, s.command.data());
  const std::array<double, 2> here = {s.position[0], s.position[1]};
  if (!same) {
    told_ = s.command;
    has_told_ = true;
    told_steps_ = index_ = 0;
    station_ = here;
    return;
  }
  ++told_steps_;
  if (radius_ >= 0 && needs_position_ && std::hypot(point(0)[0] - here[0], point(0)[1] - here[1]) <= radius_) {
    index_ = std::min(index_ + 1, size / 2 - 1);
  }
  const bool stands = settling_ >= 0 && std::hypot(told_[0], told_[1]) <= still_ &&
                      static_cast<double>(told_steps_) * period_ > settling_;
  if (settling_ >= 0 && !stands) station_ = here;
}

/// (2,) m from the robot to a place, along the heading and to its left; at most point_range long.
inline void Controller::way_to(const double* place, const Sensors& s, double* out) const noexcept {
  const double x = place[0] - s.position[0], y = place[1] - s.position[1];
  const double share = detail::point_range / std::max(std::hypot(x, y), detail::point_range);
  const double length = std::sqrt(rotation_[0][0] * rotation_[0][0] + rotation_[1][0] * rotation_[1][0] + 1e-12);
  const double c = rotation_[0][0] / length, d = rotation_[1][0] / length;
  out[0] = share * (c * x + d * y);
  out[1] = share * (c * y - d * x);
}

}  // namespace ballbot

#endif
