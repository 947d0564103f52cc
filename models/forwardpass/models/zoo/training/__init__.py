"""The making of the example networks: data, training, figures, plots."""
