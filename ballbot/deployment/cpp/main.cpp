// Drives a robot with an exported policy: fill in Robot, then
//
//     cmake -B build -DONNXRUNTIME=/where/its/release/was/unpacked && cmake --build build
//     build/drive policy.onnx
//
// As it is, it drives a robot that always stands upright, for 4 s, and says how long a step takes on this computer.

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "ballbot_runtime.hpp"

struct Robot {  // yours
  ballbot::Sensors read() {
    ballbot::Sensors sensors;  // leave out what has not come in time: the controller knows what to do
    sensors.orientation = {1.0, 0.0, 0.0, 0.0};
    sensors.angular_velocity = {0.0, 0.0, 0.0};
    sensors.velocity = {0.0, 0.0, 0.0};
    sensors.wheel_speeds.assign(std::vector<double>(wheels, 0.0).data(), wheels);
    sensors.position = {0.0, 0.0};
    sensors.goal = {1.0, 0.0};
    sensors.command.assign(std::array<double, 3>{}.data(), numbers);  // 0, 0, 0: stand
    return sensors;
  }
  void write(const std::vector<double>& torques) { (void)torques; }  // N m, to the motors

  std::size_t wheels, numbers;
};

std::atomic<bool> stop{false};

int main(int argc, char** argv) try {
  if (argc != 2) throw ballbot::Error("usage: drive policy.onnx");
  ballbot::Controller controller(argv[1]);  // {robot, command}: refuse policies of others
  Robot robot{controller.wheels(), controller.command() == "velocity" ? std::size_t(3) : std::size_t(2)};
  const std::vector<float> depth(controller.cameras() * controller.height() * controller.width(), 0.3f);
  std::signal(SIGINT, [](int) { stop = true; });

  std::puts("hold the robot upright; Enter arms it, Ctrl-C stops it");
  for (int c = std::getchar(); c != '\n' && c != EOF;) c = std::getchar();
  controller.reset();

  using Clock = std::chrono::steady_clock;
  const auto period = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(controller.period()));
  const int every = controller.sees() ? static_cast<int>(controller.camera_period() / controller.period() + 0.5) : 0;
  std::vector<double> took;
  took.reserve(2000);
  ballbot::Status before = ballbot::Status::ok;
  auto next = Clock::now();
  for (int step = 0; step < 2000 && !stop; ++step) {
    const ballbot::Sensors sensors = robot.read();
    if (every && step % every == 0) {  // with each new image
      if (const char* wrong = controller.see(depth.data(), depth.size())) std::fprintf(stderr, "error: %s\n", wrong);
    }
    const auto start = Clock::now();
    const std::vector<double>& torques = controller.act(sensors);
    took.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    robot.write(torques);
    if (controller.status() != before) std::printf("%s\n", ballbot::to_string(before = controller.status()));
    std::this_thread::sleep_until(next += period);
  }
  robot.write(std::vector<double>(controller.wheels(), 0.0));

  std::sort(took.begin(), took.end());
  if (!took.empty()) {
    const double median = took[took.size() / 2], slow = took[(took.size() - 1) * 999 / 1000];
    std::printf("%zu steps of %s: median %.1f us, 99.9th percentile %.1f us\n", took.size(), argv[1], median, slow);
  }
  return 0;
} catch (const ballbot::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
