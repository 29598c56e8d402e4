"""What `import alexnet` gives beyond the commands: objects to call, look at and train with.

A run that predicts, a data set for loaders of one's own, pretrained networks, and trainings that
report. The stages behind them are those of the command line.
"""
