"""Files of the robot: ``ballbot.xml``, its MuJoCo model."""
