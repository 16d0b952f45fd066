// A ROS 2 node that drives a robot with an exported policy; topics and services stand in docs/deployment.md.
//
//     ros2 run ballbot_ros ballbot_node --ros-args -p policy:=policy.onnx -p robot:=reference -p command:=velocity
//
// It begins disarmed, with zero torques.  The service ~/arm arms it if all that the policy needs has just come, and
// disarms it; so does whatever keeps the controller from driving until it is reset: a fall, or sensors lost for 0.1 s.

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <geometry_msgs/msg/pose_stamped.hpp>
#include <geometry_msgs/msg/twist.hpp>
#include <geometry_msgs/msg/vector3.hpp>
#include <nav_msgs/msg/odometry.hpp>
#include <nav_msgs/msg/path.hpp>
#include <rclcpp/rclcpp.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <sensor_msgs/msg/imu.hpp>
#include <sensor_msgs/msg/joint_state.hpp>
#include <std_msgs/msg/float64_multi_array.hpp>
#include <std_msgs/msg/string.hpp>
#include <std_srvs/srv/set_bool.hpp>

#include "ballbot_runtime.hpp"

class BallbotNode : public rclcpp::Node {
 public:
  BallbotNode() : Node("ballbot"), controller_(declare_parameter("policy", std::string()), options()) {
    using std::placeholders::_1;
    using std::placeholders::_2;
    joints_ = declare_parameter("joints", std::vector<std::string>{"wheel_0", "wheel_1", "wheel_2"});
    sensor_timeout_ = declare_parameter("sensor_timeout", 0.02);
    command_timeout_ = declare_parameter("command_timeout", 0.5);
    if (joints_.size() != controller_.wheels()) {
      throw ballbot::Error("joints names " + std::to_string(joints_.size()) + " wheels, the policy drives " +
                           std::to_string(controller_.wheels()));
    }
    zeros_.data.resize(joints_.size(), 0.0);
    images_.assign(controller_.cameras(), never);
    depth_.resize(controller_.cameras() * controller_.height() * controller_.width());

    const rclcpp::QoS of_sensors = rclcpp::SensorDataQoS().keep_last(1);
    listen<sensor_msgs::msg::Imu>("imu", &BallbotNode::on_imu, of_sensors);
    listen<sensor_msgs::msg::JointState>("joint_states", &BallbotNode::on_joints, of_sensors);
    listen<nav_msgs::msg::Odometry>("odom", &BallbotNode::on_odom, of_sensors);
    if (controller_.command() == "goal") listen<geometry_msgs::msg::Vector3>("direction", &BallbotNode::on_direction);
    if (controller_.command() == "velocity") listen<geometry_msgs::msg::Twist>("cmd_vel", &BallbotNode::on_velocity);
    if (controller_.command() == "point") listen<geometry_msgs::msg::PoseStamped>("goal_pose", &BallbotNode::on_point);
    if (controller_.command() == "path") listen<nav_msgs::msg::Path>("path", &BallbotNode::on_path);
    for (std::size_t i = 0; i < images_.size(); ++i) {
      subscriptions_.push_back(create_subscription<sensor_msgs::msg::Image>(
          "camera_" + std::to_string(i) + "/depth", of_sensors,
          [this, i](sensor_msgs::msg::Image::ConstSharedPtr message) { on_image(i, *message); }));
    }
    torques_ = create_publisher<std_msgs::msg::Float64MultiArray>("torques", 1);
    statuses_ = create_publisher<std_msgs::msg::String>("~/status", 1);
    arm_ = create_service<std_srvs::srv::SetBool>("~/arm", std::bind(&BallbotNode::on_arm, this, _1, _2));
    timer_ = create_wall_timer(std::chrono::duration<double>(controller_.period()), [this] { step(); });
  }

  void stop() {  // from another thread: zeros are the last message
    const std::lock_guard<std::mutex> alone(publishing_);
    stopped_ = true;
    torques_->publish(zeros_);
  }

 private:
  static constexpr double never = -std::numeric_limits<double>::infinity();
  struct Since {  // when something came, s
    double imu = never, joints = never, odom = never, command = never, images = never;
  };

  ballbot::Options options() {
    return {declare_parameter("robot", std::string()), declare_parameter("command", std::string()),
            declare_parameter("action", std::string("torque"))};
  }

  template <class Message>
  void listen(const std::string& topic, void (BallbotNode::*take)(const Message&), const rclcpp::QoS& qos = 1) {
    subscriptions_.push_back(create_subscription<Message>(
        topic, qos, [this, take](typename Message::ConstSharedPtr message) { (this->*take)(*message); }));
  }

  double seconds() { return steady_.now().seconds(); }  // by a clock that does not jump, as ROS's may

  void on_imu(const sensor_msgs::msg::Imu& m) {
    latest_.orientation = {m.orientation.w, m.orientation.x, m.orientation.y, m.orientation.z};
    latest_.angular_velocity = {m.angular_velocity.x, m.angular_velocity.y, m.angular_velocity.z};
    since_.imu = seconds();
  }

  void on_joints(const sensor_msgs::msg::JointState& m) {  // one without one of the wheels tells nothing
    std::array<double, 8> speeds{};
    for (std::size_t i = 0; i < joints_.size(); ++i) {
      const auto found = std::find(m.name.begin(), m.name.end(), joints_[i]);
      const auto at = static_cast<std::size_t>(found - m.name.begin());
      if (at >= m.velocity.size()) return;
      speeds[i] = m.velocity[at];
    }
    latest_.wheel_speeds.assign(speeds.data(), joints_.size());
    since_.joints = seconds();
  }

  void on_odom(const nav_msgs::msg::Odometry& m) {  // velocity along the base's axes (REP 105)
    latest_.position = {m.pose.pose.position.x, m.pose.pose.position.y};
    along_ = {m.twist.twist.linear.x, m.twist.twist.linear.y, m.twist.twist.linear.z};
    since_.odom = seconds();
  }

  void on_direction(const geometry_msgs::msg::Vector3& m) {
    const double length = std::hypot(m.x, m.y);
    if (length < 1e-9) {
      RCLCPP_ERROR_THROTTLE(get_logger(), *get_clock(), 5000, "%s",
                            "a direction of length 0 is none: the last one stays, disarm to stop");
      return;
    }
    latest_.goal = {m.x / length, m.y / length};
  }

  void on_velocity(const geometry_msgs::msg::Twist& m) {
    latest_.command = {m.linear.x, m.linear.y, m.angular.z};
    since_.command = seconds();
  }

  void on_point(const geometry_msgs::msg::PoseStamped& m) { latest_.command = {m.pose.position.x, m.pose.position.y}; }

  void on_path(const nav_msgs::msg::Path& m) {
    std::vector<double> places;
    for (const auto& pose : m.poses) {
      places.push_back(pose.pose.position.x);
      places.push_back(pose.pose.position.y);
    }
    latest_.command.assign(places.data(), places.size());
  }

  void on_image(std::size_t camera, const sensor_msgs::msg::Image& m) {
    const std::size_t height = controller_.height(), width = controller_.width();
    const bool metres = m.encoding == "32FC1";
    const std::size_t pixel = metres ? 4 : 2;
    if ((!metres && m.encoding != "16UC1") || m.height != height || m.width != width || m.is_bigendian ||
        m.step < width * pixel || m.data.size() < m.step * height) {
      RCLCPP_ERROR_THROTTLE(get_logger(), *get_clock(), 5000,
                            "camera_%zu sends %u x %u %s, the policy takes %zu x %zu 32FC1 (m) or 16UC1 (mm)", camera,
                            m.width, m.height, m.encoding.c_str(), width, height);
      return;
    }
    float* out = depth_.data() + camera * height * width;
    for (std::size_t i = 0; i < height * width; ++i) {
      const unsigned char* from = m.data.data() + i / width * m.step + i % width * pixel;
      if (metres) {
        std::memcpy(out + i, from, 4);
      } else {
        std::uint16_t millimetres;
        std::memcpy(&millimetres, from, 2);
        out[i] = millimetres ? 0.001f * static_cast<float>(millimetres) : NAN;  // 0: no echo
      }
    }
    const double age = std::max(now().seconds() - (m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec), 0.0);
    images_[camera] = seconds() - age;
    if (std::count(images_.begin(), images_.end(), never) > 0) return;
    since_.images = *std::min_element(images_.begin(), images_.end());
    std::fill(images_.begin(), images_.end(), never);
    see();
  }

  void see() {
    if (since_.images == never) return;
    if (const char* wrong = controller_.see(depth_.data(), depth_.size(), seconds() - since_.images)) {
      RCLCPP_ERROR(get_logger(), "%s", wrong);
    }
  }

  /// What has come in time; nothing where it has not, which the controller counts as missing.
  ballbot::Sensors sensors() {
    ballbot::Sensors found = latest_;
    const double oldest = seconds() - sensor_timeout_;
    if (since_.imu < oldest) {
      found.orientation.reset();
      found.angular_velocity.reset();
    }
    if (since_.joints < oldest) found.wheel_speeds.reset();
    if (since_.odom < oldest) {
      found.position.reset();
    } else if (found.orientation.given()) {
      const ballbot::detail::Matrix3 r = ballbot::detail::rotation_matrix(found.orientation.data());
      found.velocity = {ballbot::detail::dot(r[0], along_.data()), ballbot::detail::dot(r[1], along_.data()),
                        ballbot::detail::dot(r[2], along_.data())};
    }
    if (controller_.command() == "velocity" && since_.command < seconds() - command_timeout_) {
      found.command = {0.0, 0.0, 0.0};  // whoever steered is gone: stand
    }
    return found;
  }

  void on_arm(const std_srvs::srv::SetBool::Request::SharedPtr request,
              std_srvs::srv::SetBool::Response::SharedPtr response) {
    armed_ = false;
    idle_ = response->message = "disarmed";
    response->success = true;
    if (!request->data) return;
    const ballbot::Sensors found = sensors();
    std::string missing;
    const auto need = [&missing](bool there, const char* what) {
      if (!there) missing += (missing.empty() ? "" : ", ") + std::string(what);
    };
    need(found.orientation.given(), "orientation");
    need(found.angular_velocity.given(), "angular_velocity");
    need(found.velocity.given() || !controller_.needs_velocity(), "velocity");
    need(found.wheel_speeds.given(), "wheel_speeds");
    if (controller_.command() == "goal") need(found.goal.given(), "goal");
    if (controller_.command() != "goal") need(found.command.given(), "command");
    need(found.position.given() || !controller_.needs_position(), "position");
    need(since_.images > never || !controller_.sees(), "depth");
    if (!missing.empty()) {
      response->success = false;
      response->message = "not armed: no " + missing;
      return;
    }
    controller_.reset();
    see();
    armed_ = true;
    response->message = "armed";
  }

  void step() {
    std_msgs::msg::Float64MultiArray torques = zeros_;
    std::string status = idle_;
    if (armed_) {
      torques.data = controller_.act(sensors());
      status = ballbot::to_string(controller_.status());
      if (controller_.stopped()) {
        armed_ = false;
        idle_ = status;
      }
    }
    {
      const std::lock_guard<std::mutex> alone(publishing_);
      if (stopped_) return;
      torques_->publish(torques);
    }
    if (status != status_) {
      std_msgs::msg::String message;
      message.data = status_ = status;
      statuses_->publish(message);
    }
  }

  ballbot::Controller controller_;
  std::vector<std::string> joints_;
  double sensor_timeout_ = 0.02, command_timeout_ = 0.5;  // s
  rclcpp::Clock steady_{RCL_STEADY_TIME};
  std::mutex publishing_;
  bool stopped_ = false;
  bool armed_ = false;
  std::string idle_ = "disarmed", status_;  // idle: why it is not armed
  ballbot::Sensors latest_;
  std::array<double, 3> along_{};
  Since since_;
  std::vector<double> images_;  // when each camera's newest was taken, s; never once all have been seen
  std::vector<float> depth_;
  std_msgs::msg::Float64MultiArray zeros_;
  std::vector<rclcpp::SubscriptionBase::SharedPtr> subscriptions_;
  rclcpp::Publisher<std_msgs::msg::Float64MultiArray>::SharedPtr torques_;
  rclcpp::Publisher<std_msgs::msg::String>::SharedPtr statuses_;
  rclcpp::Service<std_srvs::srv::SetBool>::SharedPtr arm_;
  rclcpp::TimerBase::SharedPtr timer_;
};

int main(int argc, char** argv) {
  rclcpp::init(argc, argv);
  try {
    const auto node = std::make_shared<BallbotNode>();
    const std::weak_ptr<BallbotNode> weak = node;  // while it can still be published
    node->get_node_base_interface()->get_context()->add_pre_shutdown_callback([weak] {
      if (const auto last = weak.lock()) last->stop();
    });
    rclcpp::spin(node);
  } catch (const ballbot::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  rclcpp::shutdown();
  return 0;
}
