"""Beijing PM2.5, hour by hour: what to do about the hours that nobody measured?

The concentration of the next 6 hours from a day of it and of the weather. 2,067 of 43,824 hours
have no value; task.missing closes the gaps. An hour without a value is never scored.

Command:  lstm-jax train --config=configs/forecast.py [--config.task.missing=WAY]
Cost:     24,000 parameters, 1500 steps; 80 seconds on 2 busy CPU cores.
Expected: (seed 0, test, mean over the 6 hours)     MAE    RMSE
            mask                                   23.96   40.50
            dlinear                                26.32   41.52
            persistence                            26.37   44.63
            linear autoregression                  26.38   43.03
          The four ways, at the sixth hour alone, trained with an earlier version:
            mask      and how long since seen      34.47   54.68
            zero      the training mean            34.52   54.90
            linear    a line across the gap        34.59   55.08
            forward   the last value seen          34.60   54.80
            persistence                            38.83   61.65
            linear autoregression                  39.07   59.91
          The network beats persistence by 9 %; among the ways the differences are small.
Presets:  `series`: for a file of your own; `lstm-jax data inspect FILE` prints the rest.
          `smoke`: under 10 s, the first time 20, on the embedded airline series.
"""

from ml_collections import ConfigDict

from lstm_jax.config import default_config
from lstm_jax.errors import lookup


def get_config(arg: str = "") -> ConfigDict:
    config = default_config("forecast")
    config.task.csv = "pm25/pollution.csv"
    config.task.target = "pm2.5"
    config.task.features = "DEWP,TEMP,PRES,Iws,Is,Ir,hour,month"
    config.task.date = "year,month,day,hour"
    config.task.missing = "mask"
    config.task.look_back = 24
    config.task.horizon = 6
    config.task.period = 24
    config.task.log = False
    config.task.objective = "absolute"
    config.task.test_part = 0.2
    config.task.valid_part = 0.125
    config.cell.hidden = 64
    config.model.dropout = 0.0
    config.model.head_dropout = 0.2
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.clip_norm = 1.0
    config.train.batch_size = 256
    config.train.num_steps = 1500
    config.train.log_every = 50
    config.train.eval_every = 250
    config.train.checkpoint_every = 500
    config.train.best_metric = "mae"
    for name in filter(None, arg.split(",")):
        lookup("preset", name, PRESETS)(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Seconds, not minutes; on the embedded series, with nothing to fetch."""
    config.train.compile = "quick"
    config.task.csv = config.task.target = config.task.features = config.task.date = ""
    config.task.look_back = 12
    config.task.horizon = 2
    config.task.period = 12
    config.cell.hidden = 8
    config.train.batch_size = 16
    config.train.num_steps = 20
    config.train.log_every = config.train.eval_every = 10
    config.train.checkpoint_every = 10


def series(config: ConfigDict) -> None:
    """A file of your own: what `lstm-jax data inspect FILE` prints goes on from here."""
    own = default_config("forecast").task
    for name in ("csv", "target", "features", "date", "missing", "test_part", "valid_part"):
        config.task[name] = own[name]
    config.train.batch_size = 64
    config.train.num_steps = 600
    config.train.patience = 5
    config.train.eval_every = 50


PRESETS = {"series": series, "smoke": smoke}
