mod answers;
mod node;
mod repair;
mod scripted;
mod starting;
