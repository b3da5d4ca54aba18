"""Judging what the models make. Each of these is a command:

python -m evaluation                 the table: every checkpoint on held-out people (table.py)
python -m evaluation.ablate          variants of stage 2, trained and measured
python -m evaluation.mechanism       whether progression keeps D from winning: paths of stage 2
python -m evaluation.film            a moving picture: the truth beside every model
python -m evaluation.figures         the samplers, the DMD gradient and the truth, to lecture with
python -m evaluation.plots           training curves, quality against evaluations, the ablation
python -m evaluation.train_metrics   the networks that judge (metrics.py)
python -m evaluation.phone_sheet     what the lips do on each kind of phone of a recording
python -m evaluation.speed           where the time of sample.py goes
python -m evaluation.eyes            which portraits keep their eyes
"""
