"""What runs in `race.py`: a file for each learner, and in `snapshots` what they share."""
