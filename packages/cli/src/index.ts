export * from './audit.ts';
export * from './capture-file.ts';
