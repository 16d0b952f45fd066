// As much of ROS 2's C++ API as the example node uses, with its signatures, where ROS is not installed.  What spins
// reads what is sent and what happens from standard input, and prints what the node answers; see test_ros2.py.

#pragma once

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define STUB_MESSAGE(name)                               \
  struct name;                                           \
  struct name##Shared {                                  \
    using SharedPtr = std::shared_ptr<name>;             \
    using ConstSharedPtr = std::shared_ptr<const name>;  \
  };                                                     \
  struct name : name##Shared

namespace std_msgs::msg {
struct Time { std::int32_t sec = 0; std::uint32_t nanosec = 0; };
struct Header { Time stamp; std::string frame_id; };
STUB_MESSAGE(String) { std::string data; };
STUB_MESSAGE(Float64MultiArray) { std::vector<double> data; };
}  // namespace std_msgs::msg
namespace geometry_msgs::msg {
STUB_MESSAGE(Vector3) { double x = 0, y = 0, z = 0; };
struct Point { double x = 0, y = 0, z = 0; };
struct Quaternion { double x = 0, y = 0, z = 0, w = 1; };
struct Pose { Point position; Quaternion orientation; };
STUB_MESSAGE(PoseStamped) { std_msgs::msg::Header header; Pose pose; };
STUB_MESSAGE(Twist) { Vector3 linear, angular; };
struct PoseWithCovariance { Pose pose; };
struct TwistWithCovariance { Twist twist; };
}  // namespace geometry_msgs::msg
namespace nav_msgs::msg {
STUB_MESSAGE(Odometry) { geometry_msgs::msg::PoseWithCovariance pose; geometry_msgs::msg::TwistWithCovariance twist; };
STUB_MESSAGE(Path) { std::vector<geometry_msgs::msg::PoseStamped> poses; };
}  // namespace nav_msgs::msg
namespace sensor_msgs::msg {
STUB_MESSAGE(Imu) { geometry_msgs::msg::Quaternion orientation; geometry_msgs::msg::Vector3 angular_velocity; };
STUB_MESSAGE(JointState) { std::vector<std::string> name; std::vector<double> position, velocity, effort; };
STUB_MESSAGE(Image) {
  std_msgs::msg::Header header;
  std::uint32_t height = 0, width = 0, step = 0;
  std::string encoding;
  std::uint8_t is_bigendian = 0;
  std::vector<std::uint8_t> data;
};
}  // namespace sensor_msgs::msg
namespace std_srvs::srv {
struct SetBool {
  STUB_MESSAGE(Request) { bool data = false; };
  STUB_MESSAGE(Response) { bool success = false; std::string message; };
};
}  // namespace std_srvs::srv

enum rcl_clock_type_t { RCL_STEADY_TIME };

namespace rclcpp {

struct Stub {  // what a middleware would hold
  double seconds = 0, jumped = 0;
  std::map<std::string, std::string> parameters;
  std::map<std::string, std::function<void(std::shared_ptr<const void>)>> topics;
  std::function<void(std_srvs::srv::SetBool::Request::SharedPtr, std_srvs::srv::SetBool::Response::SharedPtr)> arm;
  std::function<void()> timer, shutdown;
  template <class Message>
  void send(const std::string& topic, const Message& message) {
    const auto found = topics.find(topic);
    if (found != topics.end()) found->second(std::make_shared<const Message>(message));
  }
};
inline Stub stub;

struct Time { double at; double seconds() const { return at; } };
struct Clock {
  explicit Clock(rcl_clock_type_t) {}
  Time now() const { return {stub.seconds}; }
};
struct QoS {
  QoS(std::size_t) {}
  QoS& keep_last(std::size_t) { return *this; }
};
struct SensorDataQoS : QoS { SensorDataQoS() : QoS(5) {} };
struct Logger {};
struct SubscriptionBase { using SharedPtr = std::shared_ptr<SubscriptionBase>; };
struct TimerBase { using SharedPtr = std::shared_ptr<TimerBase>; };
template <class Type>
struct Service { using SharedPtr = std::shared_ptr<Service>; };
template <class Message>
struct Publisher {
  using SharedPtr = std::shared_ptr<Publisher>;
  void publish(const std_msgs::msg::String& message) { std::cout << "status " << message.data << '\n'; }
  void publish(const std_msgs::msg::Float64MultiArray& message) {
    std::cout << "torques";
    for (const double x : message.data) std::cout << ' ' << x;
    std::cout << '\n';
  }
};
struct Context { void add_pre_shutdown_callback(std::function<void()> call) { stub.shutdown = std::move(call); } };
struct NodeBase { std::shared_ptr<Context> get_context() { return std::make_shared<Context>(); } };

class Node {
 public:
  explicit Node(const std::string&) {}
  std::string declare_parameter(const std::string& name, const std::string& otherwise) {
    const auto found = stub.parameters.find(name);
    return found == stub.parameters.end() ? otherwise : found->second;
  }
  template <class T>
  T declare_parameter(const std::string&, const T& otherwise) { return otherwise; }
  template <class Message, class Callback>
  std::shared_ptr<SubscriptionBase> create_subscription(const std::string& topic, const QoS&, Callback&& callback) {
    stub.topics[topic] = [callback](std::shared_ptr<const void> message) {
      callback(std::static_pointer_cast<const Message>(message));
    };
    return std::make_shared<SubscriptionBase>();
  }
  template <class Message>
  std::shared_ptr<Publisher<Message>> create_publisher(const std::string&, int) {
    return std::make_shared<Publisher<Message>>();
  }
  template <class Type, class Callback>
  std::shared_ptr<Service<Type>> create_service(const std::string&, Callback&& callback) {
    stub.arm = callback;
    return std::make_shared<Service<Type>>();
  }
  template <class Rep, class Period, class Callback>
  std::shared_ptr<TimerBase> create_wall_timer(std::chrono::duration<Rep, Period>, Callback&& callback) {
    stub.timer = callback;
    return std::make_shared<TimerBase>();
  }
  Time now() const { return {stub.seconds + stub.jumped}; }
  Logger get_logger() const { return {}; }
  std::shared_ptr<Clock> get_clock() { return std::make_shared<Clock>(RCL_STEADY_TIME); }
  std::shared_ptr<NodeBase> get_node_base_interface() { return std::make_shared<NodeBase>(); }
};

inline void init(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i += 2) stub.parameters[argv[i]] = argv[i + 1];
}

inline void spin(const std::shared_ptr<Node>&) {
  std::cout.precision(17);
  for (std::string word; std::cin >> word;) {
    const auto number = [] { double x = 0; std::cin >> x; return x; };
    if (word == "time") stub.seconds = number();
    if (word == "jump") stub.jumped = number();
    if (word == "imu") {
      sensor_msgs::msg::Imu m;
      for (double* x : {&m.orientation.w, &m.orientation.x, &m.orientation.y, &m.orientation.z, &m.angular_velocity.x,
                        &m.angular_velocity.y, &m.angular_velocity.z}) *x = number();
      stub.send(word, m);
    }
    if (word == "joint_states") {
      sensor_msgs::msg::JointState m;
      m.name = {"wheel_2", "arm", "wheel_0", "wheel_1"};
      for (int i = 0; i < 4; ++i) m.velocity.push_back(number());
      stub.send(word, m);
    }
    if (word == "odom") {
      nav_msgs::msg::Odometry m;
      for (double* x : {&m.pose.pose.position.x, &m.pose.pose.position.y, &m.twist.twist.linear.x,
                        &m.twist.twist.linear.y, &m.twist.twist.linear.z}) *x = number();
      stub.send(word, m);
    }
    if (word == "cmd_vel") {
      geometry_msgs::msg::Twist m;
      for (double* x : {&m.linear.x, &m.linear.y, &m.angular.z}) *x = number();
      stub.send(word, m);
    }
    if (word == "direction") {
      geometry_msgs::msg::Vector3 m;
      for (double* x : {&m.x, &m.y}) *x = number();
      stub.send(word, m);
    }
    if (word == "image") {
      sensor_msgs::msg::Image m;
      std::string topic;
      std::cin >> topic >> m.width >> m.height;
      const auto millimetres = static_cast<std::uint16_t>(number());
      const double stamp = stub.seconds + stub.jumped;
      m.header.stamp.sec = static_cast<std::int32_t>(stamp);
      m.header.stamp.nanosec = static_cast<std::uint32_t>((stamp - m.header.stamp.sec) * 1e9);
      m.encoding = "16UC1";
      m.step = 2 * m.width;
      for (std::uint32_t i = 0; i < m.width * m.height; ++i) {
        m.data.push_back(static_cast<std::uint8_t>(millimetres & 255));
        m.data.push_back(static_cast<std::uint8_t>(millimetres >> 8));
      }
      if (millimetres == 1) m.data.pop_back();  // one that was cut off
      stub.send(topic, m);
    }
    if (word == "arm") {
      const auto request = std::make_shared<std_srvs::srv::SetBool::Request>();
      const auto response = std::make_shared<std_srvs::srv::SetBool::Response>();
      request->data = number() != 0;
      stub.arm(request, response);
      std::cout << "arm " << response->success << ' ' << response->message << '\n';
    }
    if (word == "step") stub.timer();
  }
  stub.shutdown();
}
inline void shutdown() {}

}  // namespace rclcpp

#define RCLCPP_ERROR(logger, ...) ((void)(logger), std::printf("error "), std::printf(__VA_ARGS__), std::puts(""))
#define RCLCPP_ERROR_THROTTLE(logger, clock, ms, ...) ((void)(clock), RCLCPP_ERROR(logger, __VA_ARGS__))
