/** Prints as JSON whether the sensor can run on this machine. A program of its own: who asks need not load the addon, and learns of an addon that does not load. */
import { probe } from '@tidegate/native';
import { sensorConfig } from './config.ts';

process.stdout.write(`${JSON.stringify(probe(process.env['TIDEGATE_PIN_DIRECTORY'] || sensorConfig.pinDirectory.default))}\n`);
