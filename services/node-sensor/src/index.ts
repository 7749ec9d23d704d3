export { sensorConfig } from './config.ts';
export { followPace, type Pace, type PaceOptions } from './pace.ts';
export { rawMessage, type RawBatch } from './raw-batch.ts';
export { createSensor, type Sensor, type SensorDependencies } from './sensor.ts';
