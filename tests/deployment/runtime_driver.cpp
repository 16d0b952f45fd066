// The C++ runtime behind a pipe, for test_cpp.py: driver POLICY [ROBOT [COMMAND]].
//
// It reads one letter and what belongs to it, little-endian, and answers:
//   r                                    reset, no answer
//   s double age, int32 n, n floats      see: int32 length and text of what is wrong
//   a sensors                            act: int32 status, int32 allocations of this program, torques
//   b int32 n                            act at 500 Hz, n times, on the last sensors, the last images every 16 steps:
//                                        n doubles, us of each act, and as many of each see (0 where there was none)
// Sensors are eight times int32 n (-1: missing) and n doubles, in the order of their declaration.

#include <chrono>
#include <cstdio>
#include <new>

#include "ballbot_runtime.hpp"

extern "C" char __executable_start, etext;  // of GNU's and LLVM's linkers
static int allocations = 0;

__attribute__((noinline)) void* operator new(std::size_t size) {
  const char* from = static_cast<const char*>(__builtin_return_address(0));
  allocations += from >= &__executable_start && from < &etext;  // not those of onnxruntime
  if (void* found = std::malloc(size)) return found;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::size_t) noexcept { std::free(p); }

template <class T>
void get(T* to, std::size_t n = 1) {
  if (std::fread(to, sizeof(T), n, stdin) != n) std::exit(0);
}
template <class T>
void put(const T* from, std::size_t n = 1) {
  std::fwrite(from, sizeof(T), n, stdout);
}
template <std::size_t N>
void get(ballbot::Numbers<N>& numbers) {
  std::int32_t n;
  get(&n);
  std::vector<double> values(n > 0 ? static_cast<std::size_t>(n) : 0);
  get(values.data(), values.size());
  n < 0 ? numbers.reset() : numbers.assign(values.data(), values.size());
}

int main(int argc, char** argv) try {
  ballbot::Options options;
  options.readers["height"] = [](const ballbot::Sensors& s, const ballbot::Controller&, double* out, std::size_t) {
    if (s.own[0] == 13.0) throw std::runtime_error("a reader that fails");
    *out = s.own[0];
  };
  if (argc > 2) options.robot = argv[2];
  if (argc > 3) options.command = argv[3];
  if (argc > 4) options.action = argv[4];
  ballbot::Controller controller(argv[1], options);
  const auto wheels = static_cast<std::int32_t>(controller.wheels());
  put(&wheels);
  std::fflush(stdout);
  ballbot::Sensors sensors;
  std::vector<float> depth;
  double age;
  std::int32_t n;
  for (char letter; std::fread(&letter, 1, 1, stdin) == 1; std::fflush(stdout)) {
    if (letter == 'r') {
      controller.reset();
    } else if (letter == 's') {
      get(&age);
      get(&n);
      depth.resize(static_cast<std::size_t>(n));
      get(depth.data(), depth.size());
      const char* wrong = controller.see(depth.data(), depth.size(), age);
      const std::string said = wrong ? wrong : "";
      put(&(n = static_cast<std::int32_t>(said.size())));
      put(said.data(), said.size());
    } else if (letter == 'a') {
      get(sensors.orientation);
      get(sensors.angular_velocity);
      get(sensors.velocity);
      get(sensors.wheel_speeds);
      get(sensors.goal);
      get(sensors.command);
      get(sensors.position);
      get(sensors.own);
      const std::int32_t before = allocations;
      controller.act(sensors);
      const std::int32_t found[] = {static_cast<std::int32_t>(controller.status()), allocations - before};
      put(found, 2);
      put(controller.torques().data(), controller.torques().size());
    } else if (letter == 'b') {
      get(&n);
      std::vector<double> acts(static_cast<std::size_t>(n)), sees(acts);
      using Clock = std::chrono::steady_clock;
      const auto since = [](Clock::time_point t) {
        return std::chrono::duration<double, std::micro>(Clock::now() - t).count();
      };
      auto next = Clock::now();
      for (std::size_t i = 0; i < acts.size(); ++i) {
        for (; Clock::now() < next;) {  // as a loop waits that has a core of its own
        }
        auto start = Clock::now();
        if (!depth.empty() && i % 16 == 0) {
          controller.see(depth.data(), depth.size());
          sees[i] = since(start);
          start = Clock::now();
        }
        controller.act(sensors);
        acts[i] = since(start);
        next += std::chrono::milliseconds(2);
      }
      put(acts.data(), acts.size());
      put(sees.data(), sees.size());
    }
  }
  return 0;
} catch (const ballbot::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
