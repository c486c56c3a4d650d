"""AdamW in few passes over the memory, which is what an optimiser of many weights waits for."""

from typing import Any

from workbook.support.tensorflow_start import keras, tf


@keras.saving.register_keras_serializable(package="siamese_utils")
class FusedAdamW(keras.optimizers.AdamW):
    """Keras's AdamW, whose moments and weights TensorFlow updates in one operation.

    Keras's own step runs about a dozen operations one after the other, each of which reads and
    writes as many numbers as there are weights. Options, variables and results are the same, apart
    from rounding; `amsgrad` is not offered.

    Raises
    ------
    ValueError : for `amsgrad`.

    References
    ----------
    Loshchilov and Hutter (2019), "Decoupled weight decay regularization", algorithm 2.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.amsgrad:
            raise ValueError("FusedAdamW has no amsgrad: use keras.optimizers.AdamW for it")

    def _apply_weight_decay(self, variables: Any) -> None:
        """Leave it to `update_step`, which multiplies by rate and decay at once."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = tf.cast(learning_rate, variable.dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            variable.assign(variable * (1 - self.weight_decay * rate))
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=rate,
            beta1=tf.cast(self.beta_1, variable.dtype),
            beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype),
            grad=tf.convert_to_tensor(gradient),
        )
