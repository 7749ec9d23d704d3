export { sensorConfig } from './config.ts';
export { createSensor, type Sensor, type SensorDependencies } from './sensor.ts';
